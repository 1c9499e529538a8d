"""Decode, upscale and encode side by side: two threads, two bounded queues, and the caller's session."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flashvsr_trt.errors import TruncatedInputError
from flashvsr_trt.runtime.video_input import VideoInput
from flashvsr_trt.runtime.video_output import VideoOutput


class Upscaler(Protocol):
    """What the pipeline needs of a session. As many frames come out as went in; some pushes give none."""

    def push(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] in, uint8 [m, H', W', 3] out, m >= 0."""

    def flush(self) -> np.ndarray:
        """The frames still inside: uint8 [m, H', W', 3]."""


@dataclass(frozen=True)
class PipelineReport:
    """What a run did. Times are wall seconds; stages overlap, so they do not add up to `seconds`."""

    frames: int
    seconds: float
    decode_seconds: float
    """The decode thread at work."""
    decode_wait_seconds: float
    """The session waiting for frames to come in."""
    upscale_seconds: float
    """The session at work."""
    encode_wait_seconds: float
    """The session waiting for room to put frames out."""
    encode_seconds: float
    """The encode thread at work."""
    truncated: TruncatedInputError | None
    """Set when the input ended early: the output is complete and kept; raise it when done reporting."""


def upscale_video(
    source: VideoInput,
    session: Upscaler,
    output: VideoOutput,
    *,
    batch: int = 8,
    progress: Callable[[int, int | None], None] | None = None,
) -> PipelineReport:
    """Runs every frame of `source` through `session` into `output`, and finishes `output`.

    `batch` frames are pushed at a time (fewer at the end). `progress(done, total)` is called in the
    caller's thread after each chunk of written frames; total is None where the input does not say.

    Raises what any stage raised, with its own type; `output` is then aborted. KeyboardInterrupt too.
    """

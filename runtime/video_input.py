"""Frames in: any container FFmpeg reads, image sequences and pipes, decoded lazily as RGB."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType

import numpy as np

DEFAULT_RATE = Fraction(24)
"""Frames a second of an image sequence when the caller names none (announced)."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame: `pixels` uint8 RGB [H, W, 3]; `pts` and `duration` in units of the input's time base."""

    pixels: np.ndarray
    pts: int
    duration: int


@dataclass(frozen=True)
class VideoInfo:
    """What an input says of itself. Sizes are those of the stored frames, before any rotation."""

    name: str
    height: int
    width: int
    rate: Fraction
    time_base: Fraction
    frames: int | None
    """Frames that iteration will give, as far as the container announces it; None when unknown."""


class VideoInput:
    """An open input: `info`, and iteration over its `DecodedFrame`s, once. A context manager."""

    info: VideoInfo

    def __iter__(self) -> Iterator[DecodedFrame]: ...

    def close(self) -> None: ...

    def __enter__(self) -> "VideoInput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_input(
    path: str,
    *,
    start: int = 0,
    frames: int | None = None,
    rate: Fraction | None = None,
    raw_size: tuple[int, int] | None = None,
    raw_format: str = "rgb24",
    threads: int = 0,
    notify: Callable[[str], None] = logging.getLogger(__name__).warning,
) -> VideoInput:
    """Opens a video, a folder, a glob or a `%05d` pattern of images, or `-` (y4m or raw video on stdin).

    `start` frames are skipped and at most `frames` given. `rate` (frames a second) is for image sequences
    and raw video. `raw_size` (height, width) and `raw_format` (an FFmpeg pixel format) make the input raw
    video. `threads` 0 leaves the decoder's threads to FFmpeg. `notify` gets one line for each thing a user
    should know: 10-bit input, a rate assumed, and the like.

    Raises UsageError for arguments out of range, VideoError when there is no such file, it is no video, it
    has no video stream or no frames. Iteration raises VideoError on a frame of another size, and
    TruncatedInputError after the last good frame when the input ends early or is corrupt.
    """

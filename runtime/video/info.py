"""What is known of an input, and one decoded frame: plain data that input, pipeline and output share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Self

import numpy as np

from flashvsr_trt.runtime.video.beside import NOTHING, Beside
from flashvsr_trt.runtime.video.color import ColorTags

if TYPE_CHECKING:
    from av.container.core import Chapter  # of PyAV's stubs alone


@dataclass(frozen=True)
class DecodedFrame:
    """One frame: `pixels` uint8 RGB [H, W, 3]; `pts` and `duration` in units of the input's time base."""

    pixels: np.ndarray
    pts: int
    duration: int
    beside: Beside = NOTHING


@dataclass(frozen=True)
class VideoInfo:
    """What an input says of itself. Sizes are those of the stored frames, before any rotation."""

    name: str
    height: int
    width: int
    rate: Fraction
    """Average frames a second."""
    time_base: Fraction
    """Seconds of one unit of `pts` and `duration`."""
    color: ColorTags
    bits: int = 8
    """Bits a sample; what is beyond 8 goes beside the network."""
    alpha: bool = False
    chroma_location: str = "left"
    """Where chroma samples lie, in FFmpeg's words."""
    frames: int | None = None
    """Frames that iteration will give, as far as the container announces it; None when unknown."""
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    """Rotation and flips as FFmpeg's nine 16.16 and 2.30 fixed-point numbers."""
    disposition: int = 0
    """FFmpeg's flags of the video stream: default, forced and the like."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    stream_metadata: Mapping[str, str] = field(default_factory=dict)
    chapters: tuple["Chapter", ...] = ()
    copy_from: str | None = None
    """Where the other streams can be read a second time; None for pipes and images, which cannot."""
    video_index: int = 0
    """Index of the video among the file's streams."""
    other_streams: int = 0
    """Streams next to the video."""
    shift: Fraction = Fraction(0)
    """Seconds taken off every timestamp of the file, so that a later start begins at 0."""
    cut: Fraction = Fraction(0)
    """Seconds that a time from the clip's beginning on is later than the output's time of the same frame."""
    side_data: Mapping[str, bytes] = field(default_factory=dict)
    """What rides on the first frame, by FFmpeg's name of its kind."""
    skipped: int = 0
    """Frames before the start that was asked for."""
    trimmed: bool = False
    """Whether the input may be left before its end, so that other streams must be cut there."""


@dataclass(frozen=True)
class VideoInput:
    """An open input: its `info`, and iteration over its frames, once. A context manager."""

    info: VideoInfo
    frames: Iterator[DecodedFrame]
    close: Callable[[], None]

    def __iter__(self) -> Iterator[DecodedFrame]:
        return self.frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FrameOutput(ABC):
    """What the pipeline writes to. Leaving its `with` block without `finish` removes what was written."""

    @abstractmethod
    def write(self, pixels: np.ndarray, pts: int, duration: int, beside: Beside = NOTHING) -> None:
        """Encodes one frame, uint8 RGB [H, W, 3]; `pts` and `duration` in the input's time base.

        `beside` is what of the input's frame the network did not take. Raises VideoError when it cannot be
        written, ValueError for pixels of another size.
        """

    @abstractmethod
    def finish(self) -> None:
        """Completes the output and gives it its final name. Raises VideoError when it cannot be written."""

    @abstractmethod
    def abort(self) -> None:
        """Removes the unfinished output. Nothing happens after `finish`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

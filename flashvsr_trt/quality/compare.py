"""Two videos, frame against frame, in one pass and in the memory of a few frames."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from flashvsr_trt.errors import CompareError, TruncatedInputError, UsageError
from flashvsr_trt.notices import Notify
from flashvsr_trt.quality.metrics import GAUSSIAN_SIDE, FrameQuality, frame_quality
from flashvsr_trt.runtime.request import InputOptions
from flashvsr_trt.runtime.side_by_side import bicubic
from flashvsr_trt.runtime.video.info import DecodedFrame, VideoInfo, VideoInput
from flashvsr_trt.runtime.video.input import STDIN, open_input


@dataclass(frozen=True)
class ComparedFrame:
    """One frame of both. `index` counts from 0; `seconds` is when A shows it."""

    index: int
    seconds: float
    quality: FrameQuality


@dataclass(frozen=True)
class Comparison:
    """The frames that both videos have, and how many each has."""

    names: tuple[str, str]
    width: int
    height: int
    counts: tuple[int, int]
    """Frames of A and of B."""
    frames: tuple[ComparedFrame, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of A's own frames and of B's; they were compared at `width` x `height`."""
    truncated: tuple[TruncatedInputError | None, TruncatedInputError | None] = (None, None)
    """Why A and B ended early, where they did; the frames that could be decoded are compared."""


FrameWatch = Callable[[ComparedFrame, np.ndarray, np.ndarray], None]
"""Called with every compared frame and its pixels in A and B, uint8 RGB [H, W, 3]."""


def compare_videos(
    a: str,
    b: str,
    *,
    notify: Notify,
    progress: Callable[[int, int | None], None] | None = None,
    watch: FrameWatch | None = None,
) -> Comparison:
    """Compares the frames that A and B both have, whatever their timestamps.

    Where one has smaller frames, these are brought to the size of the other by bicubic interpolation.

    `a` and `b` are what `open_input` takes; interlaced frames are compared as they are stored. `notify` gets
    one line for each thing a user should know, `progress(done, total)` the frames compared.

    Raises:
        VideoError: one of them cannot be read.
        CompareError: their frames are too small for SSIM.
        UsageError: both are to be read from the same pipe.
    """
    if a == b == STDIN:
        raise UsageError("both inputs are -, and there is one pipe; name a file for one of them")
    as_stored = InputOptions(deinterlace=False)
    with open_input(a, as_stored, notify) as source_a, open_input(b, as_stored, notify) as source_b:
        size = _common_size(source_a.info, source_b.info, notify)
        announced = [source.info.frames for source in (source_a, source_b) if source.info.frames]
        reads = _Reading(source_a), _Reading(source_b)
        time_base = float(source_a.info.time_base)
        compared: list[ComparedFrame] = []
        for one, other in zip_longest(*reads):
            if one is None or other is None:
                continue  # the longer one is read on, so that its frames are counted
            pixels = bicubic(one.pixels, size), bicubic(other.pixels, size)
            frame = ComparedFrame(len(compared), one.pts * time_base, frame_quality(*pixels))
            compared.append(frame)
            if watch:
                watch(frame, *pixels)
            if progress:
                progress(len(compared), min(announced, default=None))
    counts = reads[0].count, reads[1].count
    if counts[0] != counts[1]:
        notify(f"{a} has {counts[0]} frames and {b} has {counts[1]}: the first {len(compared)} are compared")
    return Comparison(
        names=(a, b),
        width=size[1],
        height=size[0],
        sizes=tuple((source.info.width, source.info.height) for source in (source_a, source_b)),
        counts=counts,
        frames=tuple(compared),
        truncated=(reads[0].truncated, reads[1].truncated),
    )


@dataclass
class _Reading:
    """Iteration over one input that counts, and ends where the input is damaged."""

    source: VideoInput
    count: int = 0
    truncated: TruncatedInputError | None = None

    def __iter__(self) -> Iterator[DecodedFrame]:
        try:
            for frame in self.source:
                self.count += 1
                yield frame
        except TruncatedInputError as error:
            self.truncated = error


SAME_SHAPE = 0.01
"""Of the ratio of width to height: what rounding to whole pixels may change."""


def _common_size(a: VideoInfo, b: VideoInfo, notify: Notify) -> tuple[int, int]:
    """Height and width that both are compared at, the larger of the two; said where they differ."""
    small, large = sorted((a, b), key=lambda info: info.height * info.width)
    size = large.height, large.width
    if (small.height, small.width) != size:
        stretch = small.width * large.height / (small.height * large.width)
        shape = "" if abs(stretch - 1) < SAME_SHAPE else ", and is stretched: their shapes differ"
        notify(
            f"{small.name} is {small.width}x{small.height} and {large.name} is {large.width}x{large.height}: "
            f"the smaller is upscaled with bicubic interpolation{shape}"
        )
    if min(size) < GAUSSIAN_SIDE:
        raise CompareError(
            f"frames of {large.width}x{large.height} are smaller than the window of SSIM; "
            f"compare videos of at least {GAUSSIAN_SIDE} pixels a side"
        )
    return size

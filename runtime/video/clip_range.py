"""Which part of an input is used: from a frame or a time on, up to a frame or a time."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.request import Position
from flashvsr_trt.runtime.video.frame_clock import ClipEnd, TimedFrame

HALF_TICK = Fraction(1, 2)
"""Of the file's clock: files round the times of frames to it."""


@dataclass(frozen=True)
class ClipRange:
    """The part from `start` on, up to but without `end`, or `length` long.

    Raises UsageError when nothing can lie in it.
    """

    start: Position = 0
    end: Position | None = None
    length: Position | None = None

    def __post_init__(self) -> None:
        if self.start < 0:
            raise UsageError(f"start {_shown(self.start)} is negative; count from 0")
        if self.length is not None and self.length <= 0:
            raise UsageError(f"{_shown(self.length)} cannot be made; ask for at least 1 frame")
        if self.end is not None and self.length is not None:
            raise UsageError("an end and a duration or number of frames say the same twice; leave one out")
        if self.end is not None and type(self.end) is type(self.start) and self.end <= self.start:
            raise UsageError(f"the end {_shown(self.end)} is not after the start {_shown(self.start)}")

    def first(
        self, frames: Iterable[TimedFrame], begin: Fraction, unit: Fraction
    ) -> tuple[int, TimedFrame | None]:
        """How many frames lie before the range, and the first in it; None when all do.

        `begin` is when the file begins, in seconds of its clock; `unit` seconds of one unit of a pts.
        """
        threshold = (begin + self.start) / unit - HALF_TICK
        skipped = 0
        for frame in frames:
            inside = skipped >= self.start if isinstance(self.start, int) else frame.pts >= threshold
            if inside:
                return skipped, frame
            skipped += 1
        return skipped, None

    def clip_end(
        self, skipped: int, first_time: Fraction, begin: Fraction, shift: Fraction, unit: Fraction
    ) -> ClipEnd:
        """Where the range ends, for frames whose times are less `shift` seconds.

        Raises UsageError when it ends before the first frame.
        """
        count, time = None, None
        if isinstance(self.length, int):
            count = self.length
        elif self.length is not None:
            time = (first_time if self.start else begin) + self.length
        elif isinstance(self.end, int):
            count = self.end - skipped
        elif self.end is not None:
            time = begin + self.end
        if (count is not None and count < 1) or (time is not None and time <= first_time):
            raise UsageError(f"no frame lies between {_shown(self.start)} and the end; choose a later end")
        return ClipEnd(count, None if time is None else math.ceil((time - shift) / unit - HALF_TICK))

    def in_frames(self, rate: Fraction) -> tuple[int, int | None]:
        """The first frame and the number of frames where each is shown for 1 / rate.

        Raises UsageError when the range ends before its first frame.
        """
        start = _frames(self.start, rate)
        if self.length is not None:
            return start, max(_frames(self.length, rate), 1)
        if self.end is None:
            return start, None
        if _frames(self.end, rate) <= start:
            raise UsageError(f"no frame lies between {_shown(self.start)} and {_shown(self.end)}")
        return start, _frames(self.end, rate) - start


def _frames(position: Position, rate: Fraction) -> int:
    """Frames that begin before a position."""
    return position if isinstance(position, int) else math.ceil(position * rate)


def _shown(position: Position) -> str:
    return f"{position} frames" if isinstance(position, int) else f"{float(position):g} s"

"""When each frame is shown: timestamps that grow, made of what the file says; and which frames are used."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.request import Position
from flashvsr_trt.runtime.video.info import DecodedFrame

BEYOND_SECONDS = 3600
"""A frame this much later than the file says it ends, or before 0, has a damaged timestamp."""


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame; `pts` and `duration` on the file's clock, in units of the stream's time base."""

    frame: av.VideoFrame
    pts: int
    duration: int


class FrameClock:
    """Gives frames in display order times that grow, in units of `time_base`.

    Where a file says nothing of when the first frame is shown, but when it is decoded, the frames come in
    the order of these times, which begin at 0.
    """

    def __init__(
        self, name: str, time_base: Fraction, rate: Fraction, end: Fraction | None, notify: Notify
    ) -> None:
        self._name, self._notify = name, notify
        self._usual_duration = max(1, round(1 / (rate * time_base)))
        beyond = round(BEYOND_SECONDS / time_base)
        self._earliest = -beyond
        self._latest = None if end is None else round(end / time_base) + beyond
        self._expected, self._index = 0, 0
        self._last: int | None = None
        self._decoding_delay: int | None = None
        self._moved = False

    def timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[TimedFrame]:
        for frame in frames:
            pts = self._stated(frame)
            if self._last is not None and pts <= self._last:
                pts = self._repaired(self._last + 1)
            elif pts < self._earliest or (self._latest is not None and pts > self._latest):
                pts = self._repaired(self._expected)
            duration = frame.duration or self._usual_duration
            self._expected, self._last = pts + duration, pts
            self._index += 1
            yield TimedFrame(frame, pts, duration)

    def _stated(self, frame: av.VideoFrame) -> int:
        """What the frame says itself, or where it follows from those before."""
        if self._last is None and frame.pts is None and frame.dts is not None:
            self._decoding_delay = frame.dts
        if self._decoding_delay is not None:
            return self._expected if frame.dts is None else frame.dts - self._decoding_delay
        stamp = frame.dts if frame.pts is None else frame.pts
        return self._expected if stamp is None else stamp

    def _repaired(self, pts: int) -> int:
        if not self._moved:
            self._notify(
                f"{self._name}: frame {self._index} does not come after the one before; moved to do so"
            )
        self._moved = True
        return pts


@dataclass(frozen=True)
class ClipEnd:
    """Where the frames that are used end: after `count` of them, or with the first at `pts` or later."""

    count: int | None = None
    pts: int | None = None

    def reached(self, count: int, next_pts: int) -> bool:
        """Whether `count` frames are all, when the next would begin at `next_pts`."""
        return count == self.count or (self.pts is not None and next_pts >= self.pts)


def shown_until_next(frames: Iterator[DecodedFrame], end: ClipEnd) -> Iterator[DecodedFrame]:
    """The frames up to `end`, each shown until the next begins; the last of all as long as the file says.

    A frame's own duration may be that of the usual rate, in a video of variable rate as well.
    """
    frame = next(frames, None)
    count = 0
    while frame is not None:
        count += 1
        try:
            following = next(frames, None)
        except VideoError:
            if not end.reached(count, frame.pts + frame.duration):
                yield frame
                raise
            following = None  # what is wrong behind the end is not asked for
        shown = frame if following is None else replace(frame, duration=following.pts - frame.pts)
        yield shown
        if end.reached(count, shown.pts + shown.duration):
            return
        frame = following


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

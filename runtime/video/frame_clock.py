"""When each decoded frame is shown: timestamps that grow, made of what the file says of its frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from flashvsr_trt.errors import VideoError
from flashvsr_trt.notices import Notify
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

"""When each decoded frame is shown: timestamps that grow, made of what the file says of its frames."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import av

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.video_info import DecodedFrame

BEYOND_END_SECONDS = 3600
"""A frame this much later than the file says it ends has a damaged timestamp."""


class FrameClock:
    """Gives frames in display order their time, in units of `time_base`, less `shift` seconds."""

    def __init__(
        self,
        name: str,
        time_base: Fraction,
        rate: Fraction,
        shift: Fraction,
        end: Fraction | None,
        notify: Callable[[str], None],
    ) -> None:
        self._name, self._notify = name, notify
        self._shift = round(shift / time_base)
        self._usual_duration = max(1, round(1 / (rate * time_base)))
        self._latest = None if end is None else round((end + BEYOND_END_SECONDS) / time_base) - self._shift
        self._expected, self._index = 0, 0
        self._last: int | None = None
        self._delay: int | None = None
        self._moved = False

    def time(self, frame: av.VideoFrame) -> tuple[int, int]:
        """The frame's pts and duration."""
        pts = self._stated(frame)
        if self._last is not None and pts <= self._last:
            pts = self._repaired(self._last + 1)
        elif self._latest is not None and pts > self._latest:
            pts = self._repaired(self._expected)
        duration = frame.duration or self._usual_duration
        self._expected, self._last = pts + duration, pts
        self._index += 1
        return pts, duration

    def _stated(self, frame: av.VideoFrame) -> int:
        """What the frame says itself, or where it follows from those before."""
        if frame.pts is not None:
            return frame.pts - self._shift
        if frame.dts is not None:
            self._delay = frame.dts - self._expected if self._delay is None else self._delay
            return frame.dts - self._delay
        return self._expected

    def _repaired(self, pts: int) -> int:
        if not self._moved:
            self._notify(
                f"{self._name}: frame {self._index} does not come after the one before; moved to do so"
            )
        self._moved = True
        return pts


def shown_until_next(frames: Iterator[DecodedFrame], limit: int | None) -> Iterator[DecodedFrame]:
    """At most `limit` frames, each shown until the next begins; the last of all as long as the file says.

    A frame's own duration may be that of the usual rate, in a video of variable rate as well.
    """
    frame = next(frames, None)
    count = 0
    while frame is not None:
        count += 1
        try:
            following = next(frames, None)
        except VideoError:
            if count != limit:
                yield frame
                raise
            following = None  # what is wrong behind the limit is not asked for
        yield frame if following is None else replace(frame, duration=following.pts - frame.pts)
        if count == limit:
            return
        frame = following

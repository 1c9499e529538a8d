"""Holes in the times of decoded frames: where they are, and how many frames would fill them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

WIDE = Fraction(3, 2)
"""A frame that comes this many usual intervals after the one before leaves a hole."""

REGULAR_SHARE = Fraction(3, 4)
"""Where so many intervals are the usual one, the video has one rate and a hole stands for lost frames."""

KEPT_HOLES = 1000
KEPT_INTERVALS = 64


@dataclass(frozen=True)
class Hole:
    """From the end of one frame to the begin of the next, in seconds; `frames` would fill it."""

    begin: Fraction
    end: Fraction
    frames: int


class FrameGaps:
    """Sees the frames of one video in display order, in seconds, and finds the holes between them."""

    def __init__(self, rate: Fraction) -> None:
        self._nominal = 1 / rate
        self._intervals: Counter[Fraction] = Counter()
        self._wide: list[tuple[Fraction, Fraction]] = []
        self._seen = Fraction(0)
        """Seconds from the first frame to the last."""
        self._last: Fraction | None = None
        self._count = 0

    def saw(self, time: Fraction) -> None:
        """Takes the next frame's time; one that goes back makes no interval."""
        interval = Fraction(0) if self._last is None else time - self._last
        self._seen += interval
        self._count += self._last is not None
        if self._last is not None and interval > 0:
            rounded = round(interval, 3)
            if rounded in self._intervals or len(self._intervals) < KEPT_INTERVALS:
                self._intervals[rounded] += 1
            if interval > self._nominal and len(self._wide) < KEPT_HOLES:
                self._wide.append((self._last, interval))
        self._last = time

    @property
    def usual(self) -> Fraction:
        """The most common interval, in seconds, as exact as the nominal one where they agree."""
        if not self._intervals:
            return self._nominal
        common = self._intervals.most_common(1)[0][0]
        if abs(common - self._nominal) <= Fraction(1, 500):
            return self._nominal
        return max(common, Fraction(1, 1000))

    @property
    def regular(self) -> bool:
        """Whether the video has one rate, as far as its frames show."""
        usual = self.usual
        close = sum(n for interval, n in self._intervals.items() if abs(interval - usual) <= usual / 5)
        return self._count > 0 and close >= REGULAR_SHARE * self._count

    def holes(self, joins: Sequence[Fraction] = ()) -> list[Hole]:
        """The holes of a video of one rate; none in one of variable rate, whose pauses mean nothing.

        What lies where recordings were joined, at `joins` seconds, is no hole: their sound may be longer.
        """
        usual = self.usual
        if not self.regular:
            return []
        return [
            Hole(last + usual, last + interval, round(interval / usual) - 1)
            for last, interval in self._wide
            if interval > WIDE * usual
            and not any(last - usual <= join <= last + interval + usual for join in joins)
        ]

    def missing(self, joins: Sequence[Fraction] = ()) -> int:
        """Frames that fill the holes, as far as late ones did not come early later: times may be uneven."""
        holes = sum(hole.frames for hole in self.holes(joins))
        if not holes:
            return 0
        fitting = round(self._seen / self.usual)
        return min(holes, max(0, fitting - self._count))

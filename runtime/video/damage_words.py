"""Damage in words: how many frames were lost and where, how many were damaged, and what FFmpeg said."""

from collections.abc import Iterable
from fractions import Fraction

NAMED_PLACES = 3

LONGEST_SECONDS = 10_000_000
"""Damaged timestamps may say anything; one beyond this is not repeated."""


class Places:
    """Collects what was found; its text is one line. Times are in seconds of the file's clock."""

    def __init__(self, origin: Fraction) -> None:
        self._origin = origin
        self._parts: list[str] = []

    def lost(self, frames: int, times: Iterable[Fraction], about: bool = False) -> None:
        """Says how many frames are not there, and between which times; `about` when times alone tell."""
        if frames:
            clocks = [self._clock(time) for time in sorted(times)]
            span = f" at {clocks[0]} s" if clocks else ""
            if clocks and clocks[0] != clocks[-1]:
                span = f" between {clocks[0]} and {clocks[-1]} s"
            self._parts.append(f"{'about ' if about else ''}{_count(frames)} lost{span}")

    def damaged(self, times: list[Fraction]) -> None:
        """Says how many frames are there but damaged, and when the first of them are shown."""
        times = sorted(set(times))
        if times:
            named = ", ".join(self._clock(time) for time in times[:NAMED_PLACES])
            more = ", ..." if len(times) > NAMED_PLACES else ""
            self._parts.append(f"{_count(len(times))} damaged at {named}{more} s")

    def why(self, reasons: list[str]) -> None:
        self._parts += reasons

    def _clock(self, time: Fraction) -> str:
        return f"{float(time - self._origin):.2f}" if abs(time) < LONGEST_SECONDS else "?"

    def __str__(self) -> str:
        return "; ".join(self._parts)


def _count(frames: int) -> str:
    return "1 frame" if frames == 1 else f"{frames} frames"

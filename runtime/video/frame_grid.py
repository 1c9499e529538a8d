"""The one rate of a container that stores frames in slots instead of with times (AVI).

A frame goes to the slot nearest to its time; slots between hold nothing, which shows the last frame longer.
"""

from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise

from av.error import FFmpegError

from flashvsr_trt.runtime.video.clock_jumps import ClockJumps
from flashvsr_trt.runtime.video.info import VideoInfo
from flashvsr_trt.runtime.video.media_open import discard_others, open_media
from flashvsr_trt.runtime.video.packet_times import shown_at

SLOT_FORMATS = ("avi",)
"""Formats (FFmpeg's names) that store frames so."""

STANDARD_RATES = (
    *(Fraction(rate) for rate in (5, 8, 10, 12, 15)),
    *(Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30)),
    *(Fraction(48), Fraction(50), Fraction(60000, 1001), Fraction(60), Fraction(100)),
    *(Fraction(120000, 1001), Fraction(120)),
)
CLOCK_SECONDS = Fraction(1, 900)
"""Frames this near their slots are on them: most files round times to 1/1000 s."""

LONGEST_PAUSE = 50_000
"""Slots that a frame may be shown; FFmpeg's muxer refuses 60,000 empty ones in a row."""

READ_PACKETS = 20_000
"""Packets whose times are looked at: minutes of video."""


class FrameGrid:
    """Gives frames in display order their slots, counted from the time at which the output begins."""

    def __init__(self, rate: Fraction) -> None:
        self.rate = rate
        self.begun = False
        self._start, self._next = Fraction(0), 0

    def begin(self, start: Fraction) -> None:
        """Says when the output begins, in seconds; before the first frame."""
        self._start, self.begun = start, True

    def slot(self, time: Fraction) -> int:
        """The slot of a frame that is shown at `time` seconds. The first frame is on slot 0."""
        if self._next:
            slot = round((time - self._start) * self.rate)
            slot = min(max(slot, self._next), self._next + LONGEST_PAUSE)
        else:  # nothing can come before the first frame: it is shown from the beginning
            slot = 0
        self._next = slot + 1
        return slot


def choose_rate(info: VideoInfo) -> Fraction:
    """The lowest usual rate on whose slots the input's frames lie; else one with a slot for each of them."""
    times = sorted(set(_video_times(info)))
    if not times:
        return min(info.rate, STANDARD_RATES[-1])
    usual = [info.rate] if info.rate <= STANDARD_RATES[-1] else []
    for rate in (*usual, *STANDARD_RATES):
        slots = [(time - times[0]) * rate for time in times]
        if all(abs(slot - round(slot)) <= CLOCK_SECONDS * rate for slot in slots) and _distinct(slots):
            return rate
    for rate in STANDARD_RATES:
        if rate >= info.rate and _distinct((time - times[0]) * rate for time in times):
            return rate
    return STANDARD_RATES[-1]


def _distinct(slots: Iterable[Fraction]) -> bool:
    return all(round(a) < round(b) for a, b in pairwise(slots))


def _video_times(info: VideoInfo) -> list[Fraction]:
    """When the first frames are shown, in seconds; none where the input cannot be read a second time."""
    if not info.copy_from:
        return []
    times: list[Fraction] = []
    # The reading that decodes meets the same damage and reports it.
    with open_media(info.copy_from) as container, suppress(FFmpegError):
        jumps = ClockJumps(container.format.name)
        discard_others(container, {info.video_index})
        for packet in container.demux(container.streams[info.video_index]):
            jumps.correct(packet)
            time = None if packet.is_discard else shown_at(packet)
            if time is not None:
                times.append(time)
            if len(times) == READ_PACKETS:
                break
    return times

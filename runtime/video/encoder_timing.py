"""Times of frames on their way through the encoder: from the input's clock to what the container can say.

AVI has one rate and stores frames in slots. A frame goes to the slot nearest to its time; slots between hold
nothing, which shows the last frame longer.
"""

from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise

import av
from av.error import FFmpegError

from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.video.info import VideoInfo
from flashvsr_trt.runtime.video.media_open import open_media
from flashvsr_trt.runtime.video.packet_times import MuxerClock, move, read_by_one_clock, shown_at
from flashvsr_trt.runtime.video.stream_copy import StreamCopy

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
        for packet in read_by_one_clock(container, [container.streams[info.video_index]]):
            time = None if packet.is_discard else shown_at(packet)
            if time is not None:
                times.append(time)
            if len(times) == READ_PACKETS:
                break
    return times


class EncoderTiming:
    """Stamps the frames that go into an encoder, and completes the packets that come out.

    `slot_rate` is set for containers that store frames in slots: these have no times at which streams begin,
    so the earliest stream begins at 0, and the others are brought in step with it.
    """

    def __init__(
        self,
        info: VideoInfo,
        stream: av.VideoStream,
        clock: MuxerClock,
        slot_rate: Fraction | None,
        copy: StreamCopy | None,
        notify: Notify,
    ) -> None:
        self._info, self._stream, self._clock = info, stream, clock
        self._slot_rate, self._copy, self._notify = slot_rate, copy, notify
        self._first_slot: Fraction | None = None
        """When the output begins, in seconds; known with the first frame."""
        self._next_slot = 0
        self._last_tick: int | None = None
        self._durations: dict[int, int] = {}
        self._first_dts: int | None = None
        self.end = Fraction(0)
        """When the last frame ends, in seconds of the output."""

    def stamp(self, frame: av.VideoFrame, pts: int, duration: int) -> None:
        """Gives a frame its pts; `pts` and `duration` are in the input's time base."""
        unit = self._info.time_base
        self.end = (pts + duration) * unit
        if self._slot_rate:
            if self._first_slot is None:
                self._first_slot = self._begin_slots(pts * unit, 1 / (2 * self._slot_rate))
            # One slot: the container's header counts a longer last frame whose empty slots never come.
            pts, duration = self._slot((pts * unit - self._first_slot) * self._slot_rate), 1
            unit = 1 / self._slot_rate
        else:
            pts = self._spaced(pts)
        frame.pts, frame.duration, frame.time_base = pts, duration, unit
        self._durations[pts] = duration

    def _spaced(self, pts: int) -> int:
        """The frame's pts, later where the frame before is on the same tick: each gets a time of its own."""
        unit, tick = self._info.time_base, self._clock.tick(self._stream)
        place = round(pts * unit / tick)
        if self._last_tick is not None and place <= self._last_tick:
            place = self._last_tick + 1
            pts = int(-(-place * tick // unit))
        self._last_tick = place
        return pts

    def _slot(self, place: Fraction) -> int:
        """The slot of a frame that belongs at `place`; the first is on 0, as nothing can come before it."""
        slot = round(place) if self._next_slot else 0
        slot = min(max(slot, self._next_slot), self._next_slot + LONGEST_PAUSE)
        self._next_slot = slot + 1
        return slot

    def complete(self, packet: av.Packet) -> None:
        """Gives a packet of the encoder the duration of its frame, and in slots its place from 0 on."""
        # Some encoders lose durations when they reorder; the last one says how long the video is.
        if packet.pts in self._durations:
            packet.duration = self._durations.pop(packet.pts)
        if self._slot_rate:
            # B-frames begin before 0. Their container would move every stream for that, and sound with them.
            self._first_dts = packet.dts if self._first_dts is None else self._first_dts
            move(packet, -(self._first_dts or 0))

    def _begin_slots(self, first: Fraction, half: Fraction) -> Fraction:
        """When the output begins whose first frame is at `first`; half a slot is as good as no time."""
        begin = first
        sound = self._copy.first_time() if self._copy else None
        if sound is not None and sound < first - half:
            begin = max(sound, min(first, Fraction(0)))  # sound before 0 primes its decoder, unheard
        if sound is not None and sound > first + half:
            self._notify(
                f"{self._stream.container.format.name} stores no time at which sound begins: "
                f"what begins at {float(sound - first):.2f} s is heard from the beginning"
            )
        if self._copy:
            self._copy.begin = begin
        return begin

"""One clock for a file whose own clock jumps: MPEG streams joined end to end, or past their 33 bits.

As FFmpeg's own command does it (`ts_discontinuity_detect` in fftools/ffmpeg_demux.c): a jump is closed, so
that what follows it goes on where the clock stood, with the same shift for every stream.
"""

from dataclasses import dataclass
from fractions import Fraction

import av

JUMPING_FORMATS = ("mpegts", "mpeg")
"""Formats that are joined byte by byte and whose clock may start anywhere."""

FORWARD_SECONDS = 10
"""A clock that is this far ahead of where it should be has jumped; less is a pause that stays."""

BACKWARD_SECONDS = Fraction(1, 10)
"""A clock that is this far behind has jumped; less is the overlap of interleaved streams."""


@dataclass
class StreamTime:
    """How far one stream has got, in seconds of the corrected clock."""

    last: Fraction
    expected: Fraction
    duration: Fraction


class ClockJumps:
    """Takes the jumps out of the packets of one reading of a file, in the order of `demux`.

    Every reading of one file must show it the packets of all streams: then all find the same jumps.
    """

    def __init__(self, format_name: str) -> None:
        self._active = format_name in JUMPING_FORMATS
        self._streams: dict[int, StreamTime] = {}
        self._positions: dict[int, int] = {}
        self._jumps: list[tuple[int, Fraction]] = [(-1, Fraction(0))]
        """Byte positions from which on a number of seconds is added."""

    @property
    def count(self) -> int:
        """Jumps found so far."""
        return len(self._jumps) - 1

    def correct(self, packet: av.Packet) -> None:
        """Moves a packet to the one clock of the file."""
        time = packet.pts if packet.dts is None else packet.dts
        if not self._active or time is None:
            return
        # A demuxer gives a video packet when it sees the next begin: sound from behind a join may come first.
        index = packet.stream.index
        position = self._positions.get(index, 0) if packet.pos is None or packet.pos < 0 else packet.pos
        self._positions[index] = position
        seconds = time * packet.time_base
        offset = next(added for since, added in reversed(self._jumps) if position >= since)
        if packet.stream.type in ("video", "audio"):
            offset += self._jump(packet, seconds + offset, position, offset)
            self._note(packet, seconds + offset)
        if offset:
            ticks = round(offset / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks

    def _jump(self, packet: av.Packet, now: Fraction, position: int, offset: Fraction) -> Fraction:
        """Seconds to add from this packet on; 0 where the clock goes on as it should."""
        index = packet.stream.index
        own = self._streams.get(index)
        if own is None:
            behind = min((stream.last for stream in self._streams.values()), default=now)
            ahead = max((stream.last for stream in self._streams.values()), default=now)
            if behind - FORWARD_SECONDS <= now <= ahead + FORWARD_SECONDS:
                return Fraction(0)
        elif own.last - BACKWARD_SECONDS <= now <= own.expected + FORWARD_SECONDS:
            return Fraction(0)
        if position < self._jumps[-1][0]:
            return Fraction(0)
        added = max(self._reached(number, index) for number in self._streams) - now
        self._jumps.append((position, offset + added))
        return added

    def _reached(self, number: int, trigger: int) -> Fraction:
        """Where a stream ends before the jump; one more packet of it may still be inside the demuxer."""
        stream = self._streams[number]
        return stream.expected + (0 if number == trigger else stream.duration)

    def _note(self, packet: av.Packet, now: Fraction) -> None:
        duration = (packet.duration or 0) * packet.time_base
        if not duration and packet.stream.type == "video" and packet.stream.average_rate:
            duration = 1 / packet.stream.average_rate
        before = self._streams.get(packet.stream.index)
        expected = now + duration
        if before and before.expected > expected and now >= before.last - BACKWARD_SECONDS:
            expected = before.expected
        self._streams[packet.stream.index] = StreamTime(now, expected, duration)

"""When a packet is due: its times in seconds, by one clock, and on that of the container that gets it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer, OutputContainer
from av.format import Flags
from av.stream import Stream

from flashvsr_trt.runtime.video.media_open import discard_others, exact_fraction, read_packets

JUMPING_FORMATS = ("mpegts", "mpeg")
"""Formats that are joined byte by byte and whose clock may start anywhere."""

FORWARD_SECONDS = 10
"""A clock that is this far ahead of where it should be has jumped; less is a pause that stays."""

BACKWARD_SECONDS = Fraction(1, 10)
"""A clock that is this far behind has jumped; less is the overlap of interleaved streams."""


def clock_unit(timed: Stream | av.Packet) -> Fraction:
    """Seconds of one unit of the times of a stream or packet. Raises ValueError where it has no clock."""
    unit = exact_fraction(timed.time_base)
    if unit is None:
        raise ValueError(f"{timed} has no time base")
    return unit


def shown_at(packet: av.Packet) -> Fraction | None:
    """When a packet is shown, or decoded where it says no more; None where it has no time."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return None if ticks is None else ticks * clock_unit(packet)


def decoded_at(packet: av.Packet) -> Fraction | None:
    """When a packet is decoded, or shown where it says no more; None where it has no time."""
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else ticks * clock_unit(packet)


def due(packet: av.Packet) -> Fraction:
    """When a packet that has times is decoded. Raises ValueError where it has none."""
    time = decoded_at(packet)
    if time is None:
        raise ValueError(f"{packet} has no time")
    return time


def move(packet: av.Packet, ticks: int) -> None:
    """Moves a packet by units of its own clock, as far as it has times."""
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks


class MuxerClock:
    """Writes packets to one output. One that its muxer would refuse is moved by a tick, never left out.

    The clock of each stream is known when the header is written, which the first packet or `tick` does.
    """

    def __init__(self, output: OutputContainer) -> None:
        self._output = output
        self._may_repeat = bool(output.format.flags & Flags.ts_nonstrict.value)
        self._last: dict[int, int] = {}

    def tick(self, stream: Stream) -> Fraction:
        """Seconds of one unit of the container's clock for a stream. Writes the header."""
        self._output.start_encoding()
        return clock_unit(stream)

    def mux(self, packet: av.Packet) -> None:
        """Writes a packet whose `stream` is one of the output's, with pts and dts."""
        tick, index = self.tick(packet.stream), packet.stream.index
        unit, dts = clock_unit(packet) / tick, _rounded(due(packet) / tick)
        pts = dts if packet.pts is None else _rounded(packet.pts * unit)
        last = self._last.get(index)
        if last is not None:
            dts = max(dts, last if self._may_repeat else last + 1)
        packet.duration = _rounded((packet.duration or 0) * unit)
        packet.dts, packet.pts, packet.time_base = dts, max(pts, dts), tick
        self._last[index] = dts
        self._output.mux_one(packet)


def _rounded(ticks: Fraction) -> int:
    """As FFmpeg rounds: half away from 0."""
    rounded = int(abs(ticks) + Fraction(1, 2))
    return rounded if ticks >= 0 else -rounded


@dataclass(frozen=True)
class StreamTime:
    """How far one stream has got, in seconds of the corrected clock."""

    last: Fraction
    expected: Fraction
    duration: Fraction


@dataclass(frozen=True)
class Jump:
    """From somewhere between two byte positions on, `offset` seconds are added to the file's clock."""

    after: int
    until: int
    offset: Fraction


class ClockJumps:
    """One clock for a file whose own clock jumps: MPEG streams joined end to end, or past their 33 bits.

    Takes the jumps out of the packets of one reading of a file, in the order of `demux`. As FFmpeg's own
    command does it (`ts_discontinuity_detect` in fftools/ffmpeg_demux.c): a jump is closed, so that what
    follows it goes on where the clock stood, with the same shift for every stream.

    Every reading of one file must show it the packets of all streams: then all find the same jumps.
    """

    def __init__(self, format_name: str) -> None:
        self._active = format_name in JUMPING_FORMATS
        self._streams: dict[int, StreamTime] = {}
        self._positions: dict[int, int] = {}
        self._jumps = [Jump(-1, -1, Fraction(0))]
        self.joins: list[Fraction] = []
        """When the clock goes on behind each jump, in corrected seconds; grows with the jumps found."""

    def correct(self, packet: av.Packet) -> None:
        seconds = decoded_at(packet)
        if not self._active or seconds is None:
            return
        index = packet.stream.index
        position = self._positions.get(index, 0) if packet.pos is None or packet.pos < 0 else packet.pos
        offset = self._offset(index, position, seconds)
        if packet.stream.type in ("video", "audio"):
            if position >= self._jumps[-1].until and self._jumps_at(index, seconds + offset):
                offset = self._close_jump(index, position, seconds)
            self._note(packet, seconds + offset)
            self._positions[index] = position
        if offset:
            move(packet, round(offset / clock_unit(packet)))

    def _offset(self, index: int, position: int, seconds: Fraction) -> Fraction:
        """What is added to the clock of a packet. Where a jump may lie before or after it, its time tells.

        A demuxer gives a video packet when it sees the next begin: sound from behind a jump may come first.
        """
        number = next(n for n in reversed(range(len(self._jumps))) if position > self._jumps[n].after)
        jump, own = self._jumps[number], self._streams.get(index)
        if position >= jump.until or own is None:
            return jump.offset
        choices = (jump.offset, self._jumps[number - 1].offset)
        return min(choices, key=lambda offset: abs(seconds + offset - own.expected))

    def _jumps_at(self, index: int, now: Fraction) -> bool:
        """Whether a packet of a stream that is due at `now` comes from behind a jump."""
        own = self._streams.get(index)
        if own is not None:
            return not own.last - BACKWARD_SECONDS <= now <= own.expected + FORWARD_SECONDS
        reached = [stream.last for stream in self._streams.values()]
        return bool(reached) and not (min(reached) - FORWARD_SECONDS <= now <= max(reached) + FORWARD_SECONDS)

    def _close_jump(self, index: int, position: int, seconds: Fraction) -> Fraction:
        """Lets the clock go on behind a jump where it stood before; gives what is added from there on."""
        # One more video packet from before the jump may still be inside the demuxer.
        reached = max(
            stream.expected + (0 if number == index else stream.duration)
            for number, stream in self._streams.items()
        )
        jump = Jump(max(self._positions.values(), default=-1), position, reached - seconds)
        self._jumps.append(jump)
        self.joins.append(reached)
        return jump.offset

    def _note(self, packet: av.Packet, now: Fraction) -> None:
        duration = (packet.duration or 0) * clock_unit(packet)
        before = self._streams.get(packet.stream.index)
        if not duration and before and before.last < now <= before.last + 1:
            duration = now - before.last
        elif not duration and before:
            duration = before.duration
        self._streams[packet.stream.index] = StreamTime(now, now + duration, duration)


def read_by_one_clock(container: InputContainer, streams: Sequence[Stream]) -> Iterator[av.Packet]:
    """Packets of the streams, at least one, by the one clock of all. Raises FFmpegError where reading fails.

    A clock that jumps is known by all streams, and their packets are read: all readings find the same jumps.
    """
    jumps, indices = ClockJumps(container.format.name), {stream.index for stream in streams}
    jumping = container.format.name in JUMPING_FORMATS
    if not jumping:
        discard_others(container, indices)
    for packet in read_packets(container, () if jumping else streams):
        jumps.correct(packet)
        if packet.stream.index in indices:
            yield packet

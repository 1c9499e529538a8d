"""When a packet is due: its times in seconds, moved, and on the clock of the container that gets it."""

from fractions import Fraction

import av
from av.container import OutputContainer
from av.format import Flags
from av.stream import Stream

from flashvsr_trt.runtime.video.media_open import exact_fraction


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

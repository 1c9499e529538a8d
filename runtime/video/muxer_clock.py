"""Packets into a container: each stream's timestamps grow by the container's own clock, as muxers demand."""

from fractions import Fraction

import av
from av.container import OutputContainer
from av.format import Flags
from av.stream import Stream

from flashvsr_trt.runtime.video.packet_times import clock_unit, due


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

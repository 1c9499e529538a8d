"""Packets into a container: each stream's timestamps grow by the container's own clock, as muxers demand."""

from fractions import Fraction

import av

from flashvsr_trt.runtime.video.media_open import exact_fraction


class MuxerClock:
    """Writes packets to one output. One that its muxer would refuse is moved by a tick, never left out.

    The clock of each stream is known when the header is written, which the first packet or `tick` does.
    """

    def __init__(self, output: av.container.OutputContainer) -> None:
        self._output = output
        flags = av.format.Flags
        self._may_repeat = bool(output.format.flags & flags.ts_nonstrict.value)
        self._last: dict[int, int] = {}

    def tick(self, stream: av.stream.Stream) -> Fraction:
        """Seconds of one unit of the container's clock for a stream. Writes the header."""
        self._output.start_encoding()
        return exact_fraction(stream.time_base)

    def mux(self, packet: av.Packet) -> None:
        """Writes a packet whose `stream` is one of the output's, with pts and dts."""
        tick, index = self.tick(packet.stream), packet.stream.index
        dts, pts = self._ticks(packet.dts, packet, tick), self._ticks(packet.pts, packet, tick)
        last = self._last.get(index)
        if last is not None:
            dts = max(dts, last if self._may_repeat else last + 1)
        packet.duration = self._ticks(packet.duration or 0, packet, tick)
        packet.dts, packet.pts, packet.time_base = dts, max(pts, dts), tick
        self._last[index] = dts
        self._output.mux_one(packet)

    @staticmethod
    def _ticks(time: int, packet: av.Packet, tick: Fraction) -> int:
        """A time of the packet in the container's clock, rounded as FFmpeg does: half away from 0."""
        exact = time * exact_fraction(packet.time_base) / tick
        rounded = int(abs(exact) + Fraction(1, 2))
        return rounded if exact >= 0 else -rounded


class FrameSpacing:
    """Keeps frames a tick of the container's clock apart, so that the encoder gives each its own time.

    `unit` is seconds of one unit of a frame's pts.
    """

    def __init__(self, unit: Fraction, tick: Fraction) -> None:
        self._unit, self._tick = unit, tick
        self._last: int | None = None

    def spaced(self, pts: int) -> int:
        """The frame's pts, later where the frame before is on the same tick."""
        place = round(pts * self._unit / self._tick)
        if self._last is not None and place <= self._last:
            place = self._last + 1
            pts = -(-place * self._tick // self._unit)
        self._last = place
        return int(pts)

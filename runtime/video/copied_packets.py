"""Packets of the streams that are copied, from a second reading of an input, at their times in the output."""

from collections.abc import Container, Iterator
from fractions import Fraction

import av

from flashvsr_trt.runtime.video.clock_jumps import JUMPING_FORMATS, ClockJumps
from flashvsr_trt.runtime.video.copy_routes import stream_kind
from flashvsr_trt.runtime.video.media_open import exact_fraction

DECODED_BEFORE_START = Fraction(1)
"""Seconds of audio that a decoder gets before a later start: a codec's frames lean on those before."""


def read_copied(
    container: av.container.InputContainer,
    kept: list[av.stream.Stream],
    shift: Fraction,
    decoded: Container[int] = (),
) -> Iterator[av.Packet]:
    """Packets of the `kept` streams in file order, by one clock, less `shift` seconds.

    What lies before 0 after a shift is left out, but for DECODED_BEFORE_START of the streams whose indices
    are in `decoded`; cover art has no time. A subtitle that is still shown then begins there. Ends at
    the first error: the reading that decodes the video meets the same damage and reports it.
    """
    if not kept:
        return
    jumps = ClockJumps(container.format.name)
    # A clock that jumps is known by all streams, and both readings must find the same jumps.
    jumping = container.format.name in JUMPING_FORMATS
    wanted = container.demux() if jumping else container.demux(kept)
    indices = {stream.index for stream in kept}
    while True:
        try:
            packet = next(wanted, None)
        except (av.FFmpegError, IndexError):  # PyAV trips at the end when streams appeared on the way
            return
        if packet is None:
            return
        if packet.size and stream_kind(packet.stream) == "picture":
            packet.pts = packet.dts = 0
            if packet.stream.index in indices:
                yield packet
            continue
        if packet.pts is None and packet.dts is None:
            continue
        jumps.correct(packet)
        if packet.stream.index not in indices:
            continue
        packet.pts = packet.dts if packet.pts is None else packet.pts
        packet.dts = packet.pts if packet.dts is None else packet.dts
        lead = DECODED_BEFORE_START if packet.stream.index in decoded else Fraction(0)
        if not shift or _move(packet, shift, lead):
            yield packet


def _move(packet: av.Packet, shift: Fraction, lead: Fraction) -> bool:
    """Takes the shift off a packet's time; False when it lies more than `lead` before the start."""
    unit = exact_fraction(packet.time_base)
    ticks = round(shift / unit)
    packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
    if packet.pts < 0 and packet.stream.type == "subtitle" and packet.pts + (packet.duration or 0) > 0:
        packet.duration += packet.pts
        packet.pts = packet.dts = 0
    return packet.pts * unit >= -lead

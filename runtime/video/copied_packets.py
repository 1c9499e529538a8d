"""Packets of the streams that are copied, from a second reading of an input, at their times in the output."""

from collections.abc import Container, Iterator
from contextlib import suppress
from fractions import Fraction

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Stream

from flashvsr_trt.runtime.video.clock_jumps import JUMPING_FORMATS, ClockJumps
from flashvsr_trt.runtime.video.copy_routes import stream_kind
from flashvsr_trt.runtime.video.media_open import read_packets
from flashvsr_trt.runtime.video.packet_times import clock_unit, move, shown_at

DECODED_BEFORE_START = Fraction(1)
"""Seconds of audio that a decoder gets before a later start: a codec's frames lean on those before."""


def read_copied(
    container: InputContainer, kept: list[Stream], shift: Fraction, decoded: Container[int] = ()
) -> Iterator[av.Packet]:
    """Packets of the `kept` streams in file order, by one clock, less `shift` seconds.

    What lies before 0 after a shift is left out, but for DECODED_BEFORE_START of the streams whose indices
    are in `decoded`; cover art has no time. Ends at the first error: the reading that decodes the video
    meets the same damage and reports it.
    """
    if not kept:
        return
    jumps = ClockJumps(container.format.name)
    # A clock that jumps is known by all streams, and both readings must find the same jumps.
    jumping = container.format.name in JUMPING_FORMATS
    indices = {stream.index for stream in kept}
    with suppress(FFmpegError):
        for packet in read_packets(container, () if jumping else kept):
            index = packet.stream.index
            if packet.size and stream_kind(packet.stream) == "picture":
                packet.pts = packet.dts = 0
                if index in indices:
                    yield packet
                continue
            jumps.correct(packet)
            if shown_at(packet) is None or index not in indices:
                continue
            packet.pts = packet.dts if packet.pts is None else packet.pts
            packet.dts = packet.pts if packet.dts is None else packet.dts
            if shift:
                _move_to_start(packet, shift)
            shown, lead = shown_at(packet), DECODED_BEFORE_START if index in decoded else Fraction(0)
            if not shift or (shown is not None and shown >= -lead):
                yield packet


def _move_to_start(packet: av.Packet, shift: Fraction) -> None:
    """Takes the shift off a packet's time. A subtitle that is still shown then begins at 0."""
    move(packet, -round(shift / clock_unit(packet)))
    begin, duration = packet.pts or 0, packet.duration or 0
    if packet.stream.type == "subtitle" and begin < 0 < begin + duration:
        packet.duration, packet.pts, packet.dts = begin + duration, 0, 0

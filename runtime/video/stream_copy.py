"""Audio, subtitles and attachments: carried to the output packet by packet."""

from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Stream

from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.video.container_rules import Sample, stream_kind
from flashvsr_trt.runtime.video.conversion import AudioConversion, SubtitleConversion
from flashvsr_trt.runtime.video.media_open import open_media
from flashvsr_trt.runtime.video.packet_times import (
    MuxerClock,
    clock_unit,
    due,
    move,
    read_by_one_clock,
    shown_at,
)
from flashvsr_trt.runtime.video.stream_plan import PlannedStream, open_conversion
from flashvsr_trt.runtime.video.tags import content_metadata

DECODED_BEFORE_START = Fraction(1)
"""Seconds of audio that a decoder gets before a later start: a codec's frames lean on those before."""


class StreamCopy:
    """The other streams of an input, read a second time and muxed in step with the video.

    Memory is one packet: the input is read as far as the video has got, and no further.
    """

    def __init__(
        self,
        path: str,
        shift: Fraction,
        output: OutputContainer,
        clock: MuxerClock,
        planned: Sequence[PlannedStream],
        notify: Notify,
    ) -> None:
        self._shift, self._notify = shift, notify
        self._refused: set[int] = set()
        self._output, self._clock = output, clock
        self._input = open_media(path)
        self._targets: dict[int, Stream] = {}
        self._conversions: dict[int, AudioConversion | SubtitleConversion] = {}
        for plan in planned:
            self._add(plan, self._input.streams[plan.index])
        self._packets = self._made_packets()
        self._next: av.Packet | None = None
        self.begin = Fraction(0)
        """Seconds of the output that are 0 for every packet that is muxed."""

    def first_time(self) -> Fraction | None:
        """When the first of them begins, in seconds of the output; None without any."""
        packet = self._peek()
        return None if packet is None else shown_at(packet)

    def mux_until(self, time: Fraction) -> None:
        """Muxes the packets that are due before `time`, in seconds of the output."""
        while (packet := self._peek()) is not None and due(packet) - self.begin <= time:
            self._mux(packet)

    def mux_rest(self, end: Fraction | None) -> None:
        """Muxes what remains; with `end`, of each stream what begins before it."""
        streams, ended = {target.index for target in self._targets.values()}, set()
        while ended != streams and (packet := self._peek()) is not None:
            shown = shown_at(packet)
            if end is None or shown is None or shown < end:
                self._mux(packet)
            else:
                ended.add(packet.stream.index)
            self._next = None

    def _peek(self) -> av.Packet | None:
        if self._next is None:
            self._next = next(self._packets, None)
        return self._next

    def close(self) -> None:
        self._input.close()

    def _add(self, plan: PlannedStream, stream: Stream) -> None:
        if isinstance(plan.way, str):
            conversion = open_conversion(self._output, stream, plan.way, cut=bool(self._shift))
            self._conversions[stream.index], target = conversion, conversion.target
        else:
            target = plan.way(self._output, Sample(stream, plan.packets, decodes=False))
        if target.type != "attachment":  # it has its name and type, and no packets
            self._targets[stream.index] = target
            target.metadata.update(content_metadata(stream.metadata))
            target.disposition = stream.disposition

    def _made_packets(self) -> Iterator[av.Packet]:
        """Packets in output time, in file order, each with its stream of the output."""
        kept = [stream for stream in self._input.streams if stream.index in self._targets]
        decoded = {stream.index for stream in kept if stream.type == "audio"} & set(self._conversions)
        for packet in read_copied(self._input, kept, self._shift, decoded):
            index = packet.stream.index
            if index in self._conversions:
                yield from self._conversions[index].convert(packet)
            else:
                packet.stream = self._targets[index]
                yield packet
        for conversion in self._conversions.values():
            yield from conversion.finish()

    def _mux(self, packet: av.Packet) -> None:
        self._next = None
        if self.begin:
            move(packet, -round(self.begin / clock_unit(packet)))
        index = packet.stream.index
        try:
            self._clock.mux(packet)
        except InvalidDataError:  # AAC without a header, say, of which mp4 needs it
            if index not in self._refused:
                self._notify(f"stream {index} of the output: damaged packets of the input are left out")
            self._refused.add(index)


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
    with suppress(FFmpegError):
        for packet in read_by_one_clock(container, kept):
            if packet.size and stream_kind(packet.stream) == "picture":
                packet.pts = packet.dts = 0
                yield packet
                continue
            if shown_at(packet) is None:
                continue
            packet.pts = packet.dts if packet.pts is None else packet.pts
            packet.dts = packet.pts if packet.dts is None else packet.dts
            if shift:
                _move_to_start(packet, shift)
            shown = shown_at(packet)
            lead = DECODED_BEFORE_START if packet.stream.index in decoded else Fraction(0)
            if not shift or (shown is not None and shown >= -lead):
                yield packet


def _move_to_start(packet: av.Packet, shift: Fraction) -> None:
    """Takes the shift off a packet's time. A subtitle that is still shown then begins at 0."""
    move(packet, -round(shift / clock_unit(packet)))
    begin, duration = packet.pts or 0, packet.duration or 0
    if packet.stream.type == "subtitle" and begin < 0 < begin + duration:
        packet.duration, packet.pts, packet.dts = begin + duration, 0, 0

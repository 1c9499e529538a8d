"""What a container can hold: its own muxer writes a stream's first packets, its demuxer reads them back.

FFmpeg's tables alone do not answer: Matroska holds WMA though the table says no, and MPEG-TS takes FLAC
as private data that no player reads. So a stream is held when the same codec comes back and decodes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import av

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.video.copy_routes import ROUTES, Route, Sample, stream_kind
from flashvsr_trt.runtime.video.media_open import create_media, exact_fraction, open_media
from flashvsr_trt.runtime.video.muxer_clock import MuxerClock

ABORTS = {("flv", "speex")}
"""FFmpeg's muxer ends the whole process on these (an assertion of flvenc.c), so they are not tried."""

SAME_DECODER = {"mp1": "mp3", "mp2": "mp3"}
"""MPEG audio layers: some containers do not say which, and one decoder reads all."""

SAMPLE_PACKETS = 16
"""Packets a trial writes of each stream: MPEG-TS and PS are recognised by several in a row."""

READ_PACKETS = 2000
"""Packets of an input that are looked at for samples; subtitles may begin later."""

TRIAL_FRAMES = 8
TRIAL_SIZE = (128, 128)
"""Height and width of the video in a trial; encoders of fixed sizes get the real one."""

UNCODED = "wrapped_avframe"
"""The codec that FFmpeg names as a container's own where it holds raw video (y4m)."""

NOT_HELD = (ValueError, av.FFmpegError, UsageError)
"""What is raised when a muxer refuses a stream or a packet, or an encoder what it is given."""


class Part(Protocol):
    """A stream in a trial."""

    kind: str
    """Its type, in FFmpeg's words; picture for cover art."""
    codec: str | None
    """The canonical codec name that must come back; None where there is none."""
    decodes: bool
    """Whether what comes back must give a frame."""

    def add(self, output: av.container.OutputContainer) -> list[av.Packet]:
        """Adds the stream; gives the packets to write, with their stream set."""


@dataclass(frozen=True)
class CopiedPart:
    """A stream that is copied by one of ROUTES."""

    sample: Sample
    route: Route

    @property
    def kind(self) -> str:
        """The type of the stream."""
        return stream_kind(self.sample.stream)

    @property
    def codec(self) -> str | None:
        """The codec of the stream."""
        return canonical_codec(self.sample.stream)

    @property
    def decodes(self) -> bool:
        """As the stream did in its input."""
        return self.sample.decodes

    def add(self, output: av.container.OutputContainer) -> list[av.Packet]:
        """Adds the stream with copies of its packets."""
        target = self.route(output, self.sample)
        if target.type == "attachment":
            return []
        packets = [copy_packet(packet) for packet in self.sample.packets]
        for packet in packets:
            packet.stream = target
        return packets


@dataclass(frozen=True)
class EncodedVideo:
    """The output's video: a few black frames through its encoder."""

    open_stream: Callable[[av.container.OutputContainer, tuple[int, int]], av.VideoStream]
    """Adds the video stream of that height and width to an output and opens its encoder."""
    codec: str
    """What the encoder makes."""
    size: tuple[int, int]
    """Height and width."""
    kind: str = "video"
    decodes: bool = True

    def add(self, output: av.container.OutputContainer) -> list[av.Packet]:
        """Adds the stream and encodes the frames."""
        stream = self.open_stream(output, self.size)
        packets = []
        for index in range(TRIAL_FRAMES):
            frame = av.VideoFrame(self.size[1], self.size[0], stream.pix_fmt)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = index, 1 / exact_fraction(stream.codec_context.framerate)
            packets += stream.encode(frame)
        return packets + stream.encode(None)


def canonical_codec(stream: av.stream.Stream) -> str | None:
    """FFmpeg's name of the codec, whichever decoder reads it; None when it has none."""
    if stream.codec_context is None:
        return None
    return codec_family(stream.codec_context.codec)


def codec_family(codec: av.codec.Codec) -> str:
    """The codec that one decoder reads, whichever encoder or decoder names it."""
    return SAME_DECODER.get(codec.canonical_name, codec.canonical_name)


def copy_packet(packet: av.Packet) -> av.Packet:
    """A packet with the same bytes, times, flags and side data; muxing changes the times of its packet."""
    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
    for side_data in packet.iter_sidedata():
        copy.set_sidedata(side_data)
    return copy


def holds(format_name: str, options: Mapping[str, str], parts: Sequence[Part]) -> bool:
    """Whether the muxer takes all `parts` together and each comes back as what it is."""
    if any((format_name, part.codec) in ABORTS for part in parts):
        return False
    written = io.BytesIO()
    try:
        _write(written, format_name, options, parts)
        written.seek(0)
        with open_media(written) as container:
            return _came_back(container, parts)
    except NOT_HELD:
        return False


def holds_video(format_name: str, options: Mapping[str, str], video: EncodedVideo) -> EncodedVideo | None:
    """The video as trials write it when the container holds it; None when it does not.

    The codec that FFmpeg names as the container's own only has to be taken by the muxer: no demuxer
    recognises raw video without its name.
    """
    with create_media(io.BytesIO(), format_name=format_name) as output:
        own = output.default_video_codec
    for size in (TRIAL_SIZE, video.size):
        trial = replace(video, size=size)
        if holds(format_name, options, [trial]):
            return trial
        if own in (video.codec, UNCODED) and _takes(format_name, options, trial):
            return replace(trial, decodes=False)
    return None


def _takes(format_name: str, options: Mapping[str, str], part: Part) -> bool:
    try:
        _write(io.BytesIO(), format_name, options, [part])
    except NOT_HELD:
        return False
    return True


def find_route(
    format_name: str, options: Mapping[str, str], held: Sequence[Part], sample: Sample
) -> Route | None:
    """The first way in which the container holds the sample's stream beside what it already holds."""
    routes = ROUTES.get(stream_kind(sample.stream), ())
    return next((r for r in routes if holds(format_name, options, [*held, CopiedPart(sample, r)])), None)


def _write(file: io.BytesIO, format_name: str, options: Mapping[str, str], parts: Sequence[Part]) -> None:
    with create_media(file, format_name=format_name, options=options) as output:
        packets = [packet for part in parts for packet in part.add(output)]
        clock = MuxerClock(output)
        output.start_encoding()
        for packet in sorted(packets, key=lambda packet: packet.dts * exact_fraction(packet.time_base)):
            clock.mux(packet)


def _came_back(container: av.container.InputContainer, parts: Sequence[Part]) -> bool:
    found: dict[str, list[av.stream.Stream]] = {}
    for stream in container.streams:
        found.setdefault(stream_kind(stream), []).append(stream)
    wanted: dict[str, list[Part]] = {}
    for part in parts:
        wanted.setdefault(part.kind, []).append(part)
    decoding = []
    for kind, of_kind in wanted.items():
        streams = found.get(kind, [])
        if [canonical_codec(stream) for stream in streams] != [part.codec for part in of_kind]:
            return False
        decoding += [stream for stream, part in zip(streams, of_kind, strict=True) if part.decodes]
    return not decoding or _all_decode(container, decoding)


def _all_decode(container: av.container.InputContainer, streams: Sequence[av.stream.Stream]) -> bool:
    """Whether every one of the streams gives a frame."""
    silent = {stream.index for stream in streams}
    for packet in container.demux(streams):
        if packet.stream.index in silent and packet.stream.decode(packet if packet.size else None):
            silent.discard(packet.stream.index)
    return not silent


def first_samples(container: av.container.InputContainer, indexes: Sequence[int]) -> dict[int, Sample]:
    """The first packets of each of the streams, as far as they lie within READ_PACKETS packets."""
    streams = [container.streams[index] for index in indexes]
    packets: dict[int, list[av.Packet]] = {index: [] for index in indexes}
    if streams:
        for number, packet in enumerate(container.demux(streams)):
            time = packet.pts if packet.dts is None else packet.dts
            if time is None and stream_kind(packet.stream) == "picture":
                time = 0
            found = packets[packet.stream.index]
            if time is not None and packet.size and len(found) < SAMPLE_PACKETS:
                packet.dts, packet.pts = time, time if packet.pts is None else packet.pts
                found.append(packet)
            if number >= READ_PACKETS or all(len(found) >= SAMPLE_PACKETS for found in packets.values()):
                break
    for found in packets.values():
        _start_at_zero(found)
    return {index: _sample(container.streams[index], packets[index]) for index in indexes}


def _start_at_zero(packets: list[av.Packet]) -> None:
    if packets:
        first = packets[0].dts
        for packet in packets:
            packet.dts, packet.pts = packet.dts - first, packet.pts - first


def _sample(stream: av.stream.Stream, packets: list[av.Packet]) -> Sample:
    if stream.type != "audio" or stream.codec_context is None or not packets:
        return Sample(stream, tuple(packets), decodes=False)
    samples = 0
    try:
        for packet in packets:
            samples += sum(frame.samples for frame in stream.decode(packet))
    except av.FFmpegError:
        return Sample(stream, tuple(packets), decodes=False)
    return Sample(stream, tuple(packets), decodes=samples > 0)

"""What a container can hold: its own muxer writes a stream's first packets, its demuxer reads them back.

FFmpeg's tables alone do not answer: Matroska holds WMA though the table says no, and MPEG-TS takes FLAC
as private data that no player reads. So a stream is held when the same codec comes back and decodes.
"""

import io
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import cast

import av
from av.bitstream import BitStreamFilterContext
from av.codec import Codec
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.subtitles.stream import SubtitleStream

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.video.media_open import create_media, open_media, read_packets
from flashvsr_trt.runtime.video.packet_times import MuxerClock, due, move

PLACEHOLDERS = {"audio": ("pcm_s16le", "aac", "mp2", "flac"), "subtitle": ("ass", "mov_text", "webvtt")}
"""Codecs under which a stream is first added where FFmpeg's table lacks its own."""

WAVE_FORMAT = "avi"
"""Its tags for audio are those that Matroska stores (WAVEFORMATEX)."""

GUESSED_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 6: "5.1", 8: "7.1"}
"""What FFmpeg takes so many channels for where the input does not say; mp4 must say it of PCM."""

PICTURE_TYPES = {"mjpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "bmp": "image/bmp"}
"""The type of cover art by its codec."""


@dataclass(frozen=True)
class Sample:
    """A stream of an input and its first packets, which a trial writes."""

    stream: Stream
    packets: tuple[av.Packet, ...]
    decodes: bool
    """Whether the packets, audio ones, give samples when they are decoded by themselves."""


Route = Callable[[OutputContainer, Sample], Stream]


def stream_kind(stream: Stream) -> str:
    """The type of a stream, in FFmpeg's words; picture for cover art."""
    attached = stream.type == "video" and stream.disposition & Disposition.attached_pic
    return "picture" if attached else stream.type


def from_template(output: OutputContainer, sample: Sample) -> Stream:
    """As PyAV copies a stream: what FFmpeg's table for the container lists, under the container's own tag."""
    target = output.add_stream_from_template(sample.stream, opaque=True)
    if isinstance(sample.stream, av.AudioStream) and isinstance(target, av.AudioStream):
        layout = sample.stream.layout
        if layout.name == f"{layout.nb_channels} channels" and layout.nb_channels in GUESSED_LAYOUTS:
            target.codec_context.layout = GUESSED_LAYOUTS[layout.nb_channels]
    return target


def with_own_parameters(output: OutputContainer, sample: Sample) -> Stream:
    """Every parameter and the tag as in the input; FFmpeg's table is not asked, its muxer decides."""
    return _with_parameters(output, sample.stream, sample.stream)


def with_wave_tag(output: OutputContainer, sample: Sample) -> Stream:
    """As the one before, under the tag that AVI has for the codec."""
    header = io.BytesIO()
    with create_media(header, format_name=WAVE_FORMAT) as tagged:
        tagged.add_stream_from_template(sample.stream)
        tagged.start_encoding()
    header.seek(0)
    with open_media(header, format_name=WAVE_FORMAT) as tagged:
        return _with_parameters(output, tagged.streams.audio[0], sample.stream)


def as_cover(output: OutputContainer, sample: Sample) -> Stream:
    """Cover art as a picture of the file, as mp4 has it."""
    target = from_template(output, sample)
    target.disposition = Disposition.attached_pic
    return target


def as_attachment(output: OutputContainer, sample: Sample) -> Stream:
    """Cover art as an attached file, as Matroska has it."""
    codec = sample.stream.codec_context.codec.canonical_name
    kind = sample.stream.metadata.get("mimetype") or PICTURE_TYPES.get(codec)
    if kind is None or not sample.packets:
        raise ValueError(f"no type of file for a picture in {codec}")
    name = sample.stream.metadata.get("filename") or f"cover{mimetypes.guess_extension(kind)}"
    return output.add_attachment(name, kind, bytes(sample.packets[0]))


def _with_parameters(output: OutputContainer, parameters: Stream, stream: Stream) -> Stream:
    held = output.supported_codecs
    placeholder = next((name for name in PLACEHOLDERS[stream.type] if name in held), None)
    if placeholder is None:
        raise ValueError(f"{output.format.name} holds no {stream.type}")
    target = output.add_mux_stream(placeholder)
    BitStreamFilterContext("null", in_stream=parameters, out_stream=target)
    target.time_base = stream.time_base
    return target


ROUTES: dict[str, tuple[Route, ...]] = {
    "audio": (from_template, with_own_parameters, with_wave_tag),
    "subtitle": (from_template, with_own_parameters),
    "picture": (as_cover, as_attachment),
    "attachment": (from_template,),
}
"""Ways to add a copy of each kind of stream, in the order in which they are tried."""


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

NOT_HELD = (ValueError, FFmpegError, UsageError)
"""What is raised when a muxer refuses a stream or a packet, or an encoder what it is given."""


Decoded = av.VideoStream | av.AudioStream | SubtitleStream


@dataclass(frozen=True)
class Part:
    """A stream in a trial."""

    kind: str
    """Its type, in FFmpeg's words; picture for cover art."""
    codec: str | None
    """The canonical codec name that must come back; None where there is none."""
    decodes: bool
    """Whether what comes back must give a frame."""
    add: Callable[[OutputContainer], list[av.Packet]]
    """Adds the stream; gives the packets to write, with their stream set."""


def copied_part(sample: Sample, route: Route) -> Part:
    """A stream that is copied by one of ROUTES. It must decode as it did in its input."""

    def add(output: OutputContainer) -> list[av.Packet]:
        target = route(output, sample)
        packets = [] if target.type == "attachment" else [copy_packet(packet) for packet in sample.packets]
        for packet in packets:
            packet.stream = target
        return packets

    return Part(stream_kind(sample.stream), canonical_codec(sample.stream), sample.decodes, add)


AddVideo = Callable[[OutputContainer, tuple[int, int]], av.VideoStream]
"""Adds a video stream of that height and width to an output and opens its encoder."""


def encoded_video(add_video: AddVideo, codec: str, size: tuple[int, int]) -> Part:
    """The output's video: a few black frames through its encoder, which makes `codec`."""

    def add(output: OutputContainer) -> list[av.Packet]:
        stream, packets = add_video(output, size), []
        for index in range(TRIAL_FRAMES):
            frame = av.VideoFrame(size[1], size[0], stream.codec_context.pix_fmt or "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = index, 1 / Fraction(stream.codec_context.framerate)
            packets += stream.encode(frame)
        return packets + stream.encode(None)

    return Part("video", codec, True, add)


def canonical_codec(stream: Stream) -> str | None:
    """FFmpeg's name of the codec, whichever decoder reads it; None when it has none."""
    return codec_family(stream.codec_context.codec) if stream.codec_context else None


def codec_family(codec: Codec) -> str:
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


def holds_video(
    format_name: str, options: Mapping[str, str], add_video: AddVideo, codec: str, size: tuple[int, int]
) -> Part | None:
    """The video as trials write it when the container holds it; None when it does not.

    The codec that FFmpeg names as the container's own only has to be taken by the muxer: no demuxer
    recognises raw video without its name.
    """
    with create_media(io.BytesIO(), format_name=format_name) as output:
        own = output.default_video_codec
    for trial_size in (TRIAL_SIZE, size):
        trial = encoded_video(add_video, codec, trial_size)
        if holds(format_name, options, [trial]):
            return trial
        if own in (codec, UNCODED):
            with suppress(*NOT_HELD):
                _write(io.BytesIO(), format_name, options, [trial])
                return replace(trial, decodes=False)
    return None


def _write(file: io.BytesIO, format_name: str, options: Mapping[str, str], parts: Sequence[Part]) -> None:
    with create_media(file, format_name=format_name, options=options) as output:
        packets = [packet for part in parts for packet in part.add(output)]
        clock = MuxerClock(output)
        output.start_encoding()
        for packet in sorted(packets, key=due):
            clock.mux(packet)


def _came_back(container: InputContainer, parts: Sequence[Part]) -> bool:
    decoding: list[Decoded] = []
    for kind in dict.fromkeys(part.kind for part in parts):
        streams = [stream for stream in container.streams if stream_kind(stream) == kind]
        of_kind = [part for part in parts if part.kind == kind]
        if [canonical_codec(stream) for stream in streams] != [part.codec for part in of_kind]:
            return False
        both = zip(streams, of_kind, strict=True)
        decoding += [cast(Decoded, stream) for stream, part in both if part.decodes]
    return not decoding or _all_decode(container, decoding)


def _all_decode(container: InputContainer, streams: Sequence[Decoded]) -> bool:
    """Whether every one of the streams gives a frame."""
    silent = {stream.index: stream for stream in streams}
    for packet in read_packets(container, streams):
        stream = silent.get(packet.stream.index)
        if stream and stream.decode(packet if packet.size else None):
            del silent[stream.index]
    return not silent


def first_samples(container: InputContainer, indexes: Sequence[int]) -> dict[int, Sample]:
    """The first packets of each of the streams, as far as they lie within READ_PACKETS packets.

    Ends at the first error: the reading that decodes the video meets the same damage and reports it.
    """
    streams = [container.streams[index] for index in indexes]
    packets: dict[int, list[av.Packet]] = {index: [] for index in indexes}
    with suppress(FFmpegError):
        for number, packet in enumerate(read_packets(container, streams) if streams else ()):
            time = packet.pts if packet.dts is None else packet.dts
            if time is None and stream_kind(packet.stream) == "picture":
                time = 0
            found = packets[packet.stream.index]
            if time is not None and packet.size and len(found) < SAMPLE_PACKETS:
                packet.dts, packet.pts = time, time if packet.pts is None else packet.pts
                found.append(packet)
            if number >= READ_PACKETS or all(len(found) >= SAMPLE_PACKETS for found in packets.values()):
                break
    return {index: _sample(container.streams[index], packets[index]) for index in indexes}


def _sample(stream: Stream, packets: list[av.Packet]) -> Sample:
    """Packets moved so that the first begins at 0, and whether they give sound by themselves."""
    first = (packets[0].dts or 0) if packets else 0
    for packet in packets:
        move(packet, -first)
    samples = 0
    if isinstance(stream, av.AudioStream) and stream.codec_context is not None:
        with suppress(FFmpegError):
            samples = sum(frame.samples for packet in packets for frame in stream.decode(packet))
    return Sample(stream, tuple(packets), decodes=samples > 0)

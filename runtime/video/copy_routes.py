"""Ways to add a copy of an input's stream to an output: what one refuses, another may take."""

import io
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass

import av
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.stream import Disposition, Stream

from flashvsr_trt.runtime.video.media_open import create_media, open_media

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

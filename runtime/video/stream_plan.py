"""What becomes of each stream next to the video: copied, converted, or left out with a line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import av
from av.codec import Codec
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Stream
from av.subtitles.stream import SubtitleStream

from flashvsr_trt.errors import UsageError
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.request import AUTO, COPY, DROP, OutputOptions
from flashvsr_trt.runtime.video.container_rules import (
    ROUTES,
    Part,
    Route,
    Sample,
    codec_family,
    copied_part,
    copy_packet,
    first_samples,
    holds,
    stream_kind,
)
from flashvsr_trt.runtime.video.conversion import (
    SUBTITLE_ENCODERS,
    AudioConversion,
    SubtitleConversion,
    find_audio_encoder,
    find_subtitle_encoder,
    is_text,
)
from flashvsr_trt.runtime.video.media_open import discard_others, has_parameters

AUDIO_ENCODERS = ("aac", "libopus", "libvorbis", "libmp3lame", "ac3", "mp2", "flac", "pcm_s16le")
"""Encoders in the order in which `auto` tries them: the first that the container holds."""

CANDIDATES = {"audio": AUDIO_ENCODERS, "subtitle": SUBTITLE_ENCODERS}


@dataclass(frozen=True)
class PlannedStream:
    """A stream that reaches the output."""

    index: int
    packets: tuple[av.Packet, ...]
    """Its first packets: cover art that becomes a file is one."""
    way: Route | str
    """How it is copied, or the encoder that it goes through."""


def converted_part(sample: Sample, encoder: str) -> Part:
    """A stream in a trial that goes through an encoder."""

    def add(output: OutputContainer) -> list[av.Packet]:
        conversion = open_conversion(output, sample.stream, encoder)
        packets = [made for packet in sample.packets for made in conversion.convert(copy_packet(packet))]
        return packets + conversion.finish()

    return Part(sample.stream.type, codec_family(Codec(encoder, "w")), decodes=True, add=add)


def open_conversion(
    output: OutputContainer, stream: Stream, encoder: str, cut: bool = False
) -> AudioConversion | SubtitleConversion:
    """The conversion of an audio or subtitle stream, added to `output`; `cut` leaves out what is before 0."""
    if isinstance(stream, av.AudioStream):
        return AudioConversion(output, stream, encoder, cut)
    return SubtitleConversion(output, cast(SubtitleStream, stream), encoder)


class StreamPlanner:
    """Decides stream by stream, each beside those that the output already holds."""

    def __init__(
        self, format_name: str, muxer: Mapping[str, str], video: Part, options: OutputOptions, notify: Notify
    ) -> None:
        self._format, self._muxer, self._notify = format_name, muxer, notify
        self._held: list[Part] = [video]
        self._wanted = {"audio": options.audio_codec, "subtitle": options.subtitle_codec}

    def plan(self, container: InputContainer, video_index: int) -> list[PlannedStream]:
        """The streams of `container` that reach the output, in its order. Uses up the container."""
        wanted = []
        for stream in container.streams:
            if stream.index == video_index:
                continue
            reason = self._unwanted(stream, has_chapters=bool(container.chapters()))
            if reason is None:
                wanted.append(stream.index)
            elif reason:
                self._notify(reason)
        discard_others(container, wanted)
        samples = first_samples(container, wanted)
        planned = [self._plan_stream(index, samples[index]) for index in wanted]
        return [stream for stream in planned if stream]

    def _unwanted(self, stream: Stream, has_chapters: bool) -> str | None:
        """Why a stream is left out whatever the output is; empty when that needs no word, None when not."""
        if not has_parameters(stream):
            return f"{described(stream)} is not kept: no packet of it comes in the first seconds"
        kind = stream_kind(stream)
        if self._wanted.get(kind) == DROP:
            return ""
        if kind in ROUTES:
            return None
        if kind == "data" and "timecode" in stream.metadata:
            return ""  # the muxer writes it anew from the tag that the video has too
        if kind == "data" and has_chapters and stream.discard == Discard.all:
            return ""  # mp4 stores chapter titles as a text track: they are copied as chapters
        if kind == "video":
            return f"{described(stream)} is not copied: only the first video is upscaled"
        return f"{described(stream)} is not copied: only audio, subtitles, attachments and cover art are"

    def _plan_stream(self, index: int, sample: Sample) -> PlannedStream | None:
        kind, stream = stream_kind(sample.stream), described(sample.stream)
        wanted = self._wanted.get(kind, COPY)
        if wanted not in (COPY, AUTO):
            return self._convert_as_told(index, sample, wanted)
        for route in ROUTES[kind]:
            if self._holds(part := copied_part(sample, route)):
                return self._keep(index, sample, part, route)
        line = f"{stream} is not copied: {self._format} cannot hold it"
        encoder = self._fitting_encoder(sample) if kind in CANDIDATES else None
        if encoder is None:
            bitmap = kind == "subtitle" and not is_text(sample.stream)
            self._notify(line + (", and bitmaps cannot be converted to text" if bitmap else ""))
            return None
        if wanted == COPY:
            self._notify(f"{line}; --{kind}-codec {AUTO} converts it to {encoder}")
            return None
        self._notify(f"{stream} is converted to {encoder}: {self._format} cannot hold it")
        return self._keep(index, sample, converted_part(sample, encoder), encoder)

    def _convert_as_told(self, index: int, sample: Sample, name: str) -> PlannedStream | None:
        kind, stream = sample.stream.type, described(sample.stream)
        if kind == "subtitle" and not is_text(sample.stream):
            self._notify(f"{stream} is not kept: bitmaps cannot be converted to {name}")
            return None
        encoder = (find_audio_encoder(name) if kind == "audio" else find_subtitle_encoder(name)).name
        if not self._holds(part := converted_part(sample, encoder)):
            fitting = self._fitting_encoder(sample) or f"--{kind}-codec {DROP} or another extension"
            raise UsageError(f"{self._format} cannot hold {stream} as {encoder}; use {fitting}")
        return self._keep(index, sample, part, encoder)

    def _keep(self, index: int, sample: Sample, part: Part, way: Route | str) -> PlannedStream:
        self._held.append(part)
        return PlannedStream(index, sample.packets, way)

    def _holds(self, part: Part) -> bool:
        return holds(self._format, self._muxer, [*self._held, part])

    def _fitting_encoder(self, sample: Sample) -> str | None:
        """The first encoder whose conversion the container holds; None when it holds none."""
        stream = sample.stream
        if stream.codec_context is None or (stream.type == "subtitle" and not is_text(stream)):
            return None
        here = (name for name in CANDIDATES[stream.type] if name in av.codecs_available)
        return next((name for name in here if self._holds(converted_part(sample, name))), None)


def described(stream: Stream) -> str:
    """A stream in words: number, kind, codec."""
    kind = {"picture": "cover art"}.get(stream_kind(stream), stream.type)
    if stream.codec_context:
        codec = stream.codec_context.name
    else:
        named = getattr(stream, "name", None) or stream.metadata.get("handler_name", "").strip()
        codec = named or "of unknown codec"
    return f"stream {stream.index} ({kind}, {codec})"

"""Audio and text subtitles made anew where the output cannot hold them as they are: decoded and encoded."""

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import cast

import av
from av.codec import Codec
from av.container import OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.video.frame_filter import ChangingGraph
from flashvsr_trt.runtime.video.media_open import exact_fraction, find_encoder
from flashvsr_trt.runtime.video.packet_times import clock_unit, shown_at

BIT_RATE_PER_CHANNEL = 96_000
"""Of lossy encoders, bits a second: transparent for most material in AAC and Opus."""

GAP_SECONDS = 0.02
"""A gap in the input's timestamps from this on becomes silence, an overlap is cut."""

PREFERRED_ENCODERS = {"opus": "libopus", "vorbis": "libvorbis", "mp3": "libmp3lame"}
"""FFmpeg's own encoders of these are experimental, or there is none."""

DEFAULT_LAYOUTS = {1: ("mono",), 2: ("stereo",), 3: ("2.1", "3.0"), 4: ("4.0", "quad"), 5: ("5.0",)} | {
    6: ("5.1",),
    7: ("6.1",),
    8: ("7.1",),
}
"""Layouts of as many channels, for encoders that lack the input's."""


def find_audio_encoder(name: str) -> Codec:
    """The encoder of that name, or of that codec. Raises UsageError when there is none."""
    advice = "use copy, auto, none or one such as aac or libopus"
    return find_encoder(PREFERRED_ENCODERS.get(name, name), "audio", advice)


class AudioConversion:
    """One stream: packets of the input in, packets of the output out.

    Channels and sample rate stay where the encoder can; the encoder's delay is told to the muxer, so the
    first sample keeps its time. With `cut` what lies before 0 is left out, to the sample.

    Raises UsageError when the encoder takes nothing like the input.
    """

    def __init__(
        self, output: OutputContainer, stream: av.AudioStream, encoder: str, cut: bool = False
    ) -> None:
        self._source, self._cut = stream, cut
        stream.codec_context.flush_buffers()
        codec = find_audio_encoder(encoder)
        rate, layout, sample_format, bit_rate = _fitting_settings(codec, stream)
        self.target = cast(av.AudioStream, output.add_stream(codec.name, rate=rate))
        self._encoder = self.target.codec_context
        self._encoder.layout, self._encoder.format = layout, sample_format
        if bit_rate:
            self._encoder.bit_rate = bit_rate
        self._encoder.open()
        self._graph: ChangingGraph[av.AudioFrame] = ChangingGraph()
        self._expected: int | None = None

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        """What the packet adds to the output. Damaged packets add nothing: the gap becomes silence."""
        try:
            frames = self._source.decode(packet)
        except FFmpegError:
            return []
        return self._encode(frames)

    def finish(self) -> list[av.Packet]:
        """What is left inside decoder, filters and encoder."""
        packets = self._encode(self._source.decode(None))
        for frame in self._graph.rest():
            packets += self.target.encode(frame)
        return packets + self.target.encode(None) if self._encoder.is_open else packets

    def _encode(self, frames: list[av.AudioFrame]) -> list[av.Packet]:
        fitted = (part for frame in frames for part in self._fitted(frame))
        return [packet for frame in fitted for packet in self.target.encode(frame)]

    def _fitted(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """The frame in output time, in the encoder's rate, layout and sample format."""
        unit = exact_fraction(frame.time_base) or Fraction(1, frame.sample_rate)
        if frame.pts is None:
            frame.pts = self._expected or 0
        self._expected = frame.pts + round(Fraction(frame.samples, frame.sample_rate) / unit)
        frame.time_base = unit
        kind = (frame.sample_rate, frame.format.name, frame.layout.name, unit)
        return self._graph.through(frame, kind, partial(self._filters, *kind))

    def _filters(self, rate: int, sample_format: str, layout: str, unit: Fraction) -> Graph:
        graph = Graph()
        wanted = {
            "sample_rates": str(self._encoder.sample_rate),
            "sample_fmts": self._encoder.format.name,
            "channel_layouts": self._encoder.layout.name,
        }
        graph.link_nodes(
            graph.add_abuffer(sample_rate=rate, format=sample_format, layout=layout, time_base=unit),
            *([graph.add("atrim", start="0")] if self._cut else []),
            graph.add("aresample", **{"async": "1", "min_hard_comp": str(GAP_SECONDS)}),
            graph.add("aformat", **wanted),
            graph.add("abuffersink"),
        ).configure()
        return graph


def _fitting_settings(encoder: Codec, stream: av.AudioStream) -> tuple[int, str, str, int | None]:
    """Sample rate, layout, sample format and bit rate that the encoder opens with, near to the input's."""
    rate, sample_format = _nearest_rate(encoder, stream.rate), _nearest_format(encoder, stream.format)
    channels = stream.layout.nb_channels
    wanted = BIT_RATE_PER_CHANNEL * channels if encoder.lossy and not encoder.lossless else None
    layouts = dict.fromkeys([stream.layout.name, *DEFAULT_LAYOUTS.get(channels, ()), "stereo", "mono"])
    for layout, bit_rate in itertools.product(layouts, dict.fromkeys([wanted, None])):
        trial = encoder.create("audio")
        trial.sample_rate, trial.layout, trial.format = rate, layout, sample_format
        if bit_rate:
            trial.bit_rate = bit_rate
        with contextlib.suppress(FFmpegError, ValueError):
            trial.open()
            return rate, layout, sample_format, bit_rate
    raise UsageError(
        f"the encoder {encoder.name} takes no {stream.layout.name} of {stream.rate} Hz; use another, say aac"
    )


def _nearest_rate(encoder: Codec, rate: int) -> int:
    """The input's rate, else the next higher one that the encoder has, else its highest."""
    rates = sorted(encoder.audio_rates or ())
    if not rates or rate in rates:
        return rate
    return next((higher for higher in rates if higher > rate), rates[-1])


def _nearest_format(encoder: Codec, source: av.AudioFormat) -> str:
    """The encoder's sample format with at least the input's bits, and no more than it needs."""
    formats = encoder.audio_formats or (source,)
    enough = [option for option in formats if option.bits >= source.bits] or list(formats)

    def distance(option: av.AudioFormat) -> tuple[int, bool]:
        return abs(option.bits - source.bits), option.name.rstrip("p") != source.name.rstrip("p")

    return min(enough, key=distance).name


SUBTITLE_ENCODERS = ("mov_text", "webvtt", "subrip", "ass")
"""Encoders of text, in the order in which `auto` tries them after the container's own."""

ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n"
    b"Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, "
    b"Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, "
    b"MarginL, MarginR, MarginV, Encoding\n"
    b"Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n\n[Events]\n"
    b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
"""FFmpeg's default style, for decoders that say none."""

ASS_FIELDS = 8
"""Fields before the text of an event as FFmpeg's decoders give it."""

MILLISECOND = Fraction(1, 1000)


def find_subtitle_encoder(name: str) -> Codec:
    """The encoder of text subtitles of that name. Raises UsageError when there is none."""
    advice = f"use copy, auto, none or {', '.join(SUBTITLE_ENCODERS)}"
    encoder = find_encoder(name, "subtitle", advice)
    if not encoder.text_sub:
        raise UsageError(f"'{name}' encodes no text subtitles; {advice}")
    return encoder


def is_text(stream: Stream) -> bool:
    """Whether the subtitles are text that FFmpeg decodes; bitmaps are not."""
    return stream.codec_context is not None and bool(stream.codec_context.codec.text_sub)


class SubtitleConversion:
    """One stream: packets of the input in, packets of the output out, at the same times.

    Raises UsageError when the subtitles are bitmaps, which hold no text.
    """

    def __init__(self, output: OutputContainer, stream: SubtitleStream, encoder: str) -> None:
        if not is_text(stream):
            raise UsageError(f"stream {stream.index}: bitmap subtitles cannot be converted to {encoder}")
        self._decoder = stream.codec_context
        self._decoder.open(strict=False)
        self.target = cast(SubtitleStream, output.add_stream(find_subtitle_encoder(encoder).name))
        self._encoder = self.target.codec_context
        self._encoder.subtitle_header = self._decoder.subtitle_header or ASS_HEADER
        self._encoder.time_base = MILLISECOND
        self._encoder.open()

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        """The packet's lines as one packet; none where it has none or is damaged."""
        try:
            decoded = self._decoder.decode2(packet)
        except FFmpegError:
            return []
        if decoded is None:
            return []
        lines = [rect.ass for rect in decoded if isinstance(rect, AssSubtitle)]
        lines = [line for line in lines if line.split(b",", ASS_FIELDS)[-1].strip()]
        time = shown_at(packet)
        if not lines or time is None:
            return []
        seconds = (packet.duration or 0) * clock_unit(packet) or decoded.end_display_time * MILLISECOND
        # One event shows all lines, one below the other.
        event = rb"\N".join([lines[0], *(line.split(b",", ASS_FIELDS)[-1] for line in lines[1:])])
        return [self._packet(event, time, seconds)]

    def finish(self) -> list[av.Packet]:
        return []

    def _packet(self, event: bytes, time: Fraction, seconds: Fraction) -> av.Packet:
        milliseconds = round(seconds / MILLISECOND)
        packet = self._encoder.encode_subtitle(SubtitleSet.create(event, 0, milliseconds))
        packet.stream, packet.time_base = self.target, MILLISECOND
        packet.pts = packet.dts = round(time / MILLISECOND)
        packet.duration = milliseconds
        packet.is_keyframe = True
        return packet

"""Text subtitles made anew where the output cannot hold them as they are: decoded to ASS, encoded."""

from fractions import Fraction
from typing import cast

import av
from av.codec import Codec
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.video.media_open import find_encoder
from flashvsr_trt.runtime.video.packet_times import clock_unit, shown_at

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

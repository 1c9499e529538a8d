"""Audio made anew where the output cannot hold it as it is: decoded, fitted to an encoder, encoded."""

import itertools
from collections.abc import Iterator
from fractions import Fraction

import av

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.video.media_open import exact_fraction

BIT_RATE_PER_CHANNEL = 96_000
"""Of lossy encoders, bits a second: transparent for most material in AAC and Opus."""

GAP_SECONDS = 0.02
"""A gap in the input's timestamps from this on becomes silence, an overlap is cut."""

PREFERRED_ENCODERS = {"opus": "libopus", "vorbis": "libvorbis", "mp3": "libmp3lame"}
"""FFmpeg's own encoders of these are experimental, or there is none."""


def find_audio_encoder(name: str) -> av.codec.Codec:
    """The encoder of that name, or of that codec. Raises UsageError when there is none."""
    try:
        encoder = av.codec.Codec(PREFERRED_ENCODERS.get(name, name), "w")
    except (av.codec.codec.UnknownCodecError, RuntimeError) as error:
        raise UsageError(
            f"no audio encoder '{name}' in this FFmpeg; use copy, auto, none or one such as aac or libopus"
        ) from error
    if encoder.type != "audio":
        raise UsageError(f"'{name}' encodes {encoder.type}, not audio; use one such as aac or libopus")
    return encoder


class AudioConversion:
    """One stream: packets of the input in, packets of the output out.

    Channels and sample rate stay where the encoder can; the encoder's delay is told to the muxer, so the
    first sample keeps its time. With `cut` what lies before 0 is left out, to the sample.

    Raises UsageError when the encoder takes nothing like the input.
    """

    def __init__(
        self,
        output: av.container.OutputContainer,
        stream: av.AudioStream,
        encoder: str,
        cut: bool = False,
    ) -> None:
        self._source, self._cut = stream, cut
        stream.codec_context.flush_buffers()
        settings = _fitting_settings(find_audio_encoder(encoder), stream)
        self.target = output.add_stream(settings["codec"], rate=settings["rate"])
        self._encoder = self.target.codec_context
        self._encoder.layout, self._encoder.format = settings["layout"], settings["format"]
        if settings["bit_rate"]:
            self._encoder.bit_rate = settings["bit_rate"]
        self._encoder.open()
        self._graph: av.filter.Graph | None = None
        self._graph_input: tuple | None = None
        self._expected: int | None = None

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        """What the packet adds to the output. Damaged packets add nothing: the gap becomes silence."""
        try:
            frames = self._source.decode(packet)
        except av.FFmpegError:
            return []
        return self._encode(frames)

    def finish(self) -> list[av.Packet]:
        """What is left inside decoder, filters and encoder."""
        packets = self._encode(self._source.decode(None))
        for frame in self._drained():
            packets += self.target.encode(frame)
        return packets + self.target.encode(None) if self._encoder.is_open else packets

    def _encode(self, frames: list[av.AudioFrame]) -> list[av.Packet]:
        packets = []
        for frame in frames:
            for fitted in self._fitted(frame):
                packets += self.target.encode(fitted)
        return packets

    def _fitted(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """The frame in output time, in the encoder's rate, layout and sample format."""
        unit = exact_fraction(frame.time_base) or Fraction(1, frame.sample_rate)
        if frame.pts is None:
            frame.pts = self._expected or 0
        self._expected = frame.pts + round(Fraction(frame.samples, frame.sample_rate) / unit)
        frame.time_base = unit
        kind = (frame.sample_rate, frame.format.name, frame.layout.name, unit)
        if kind != self._graph_input:
            yield from self._drained()
            self._graph, self._graph_input = self._filters(*kind), kind
        self._graph.push(frame)
        yield from _pulled(self._graph)

    def _drained(self) -> Iterator[av.AudioFrame]:
        if self._graph is not None:
            self._graph.push(None)
            yield from _pulled(self._graph)
            self._graph = None

    def _filters(self, rate: int, sample_format: str, layout: str, unit: Fraction) -> av.filter.Graph:
        graph = av.filter.Graph()
        nodes = [
            graph.add(
                "abuffer",
                sample_rate=str(rate),
                sample_fmt=sample_format,
                channel_layout=layout,
                time_base=str(unit),
            )
        ]
        if self._cut:
            nodes.append(graph.add("atrim", start="0"))
        nodes.append(graph.add("aresample", **{"async": "1", "min_hard_comp": str(GAP_SECONDS)}))
        nodes.append(
            graph.add(
                "aformat",
                sample_rates=str(self._encoder.sample_rate),
                sample_fmts=self._encoder.format.name,
                channel_layouts=self._encoder.layout.name,
            )
        )
        nodes.append(graph.add("abuffersink"))
        for before, after in itertools.pairwise(nodes):
            before.link_to(after)
        graph.configure()
        return graph


def _pulled(graph: av.filter.Graph) -> Iterator[av.AudioFrame]:
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


def _fitting_settings(encoder: av.codec.Codec, stream: av.AudioStream) -> dict:
    """Codec, rate, layout, format and bit rate that the encoder opens with, near to the input's."""
    rate = _nearest_rate(encoder, stream.rate)
    channels = stream.layout.nb_channels
    wanted = BIT_RATE_PER_CHANNEL * channels if encoder.lossy and not encoder.lossless else None
    sample_format = _nearest_format(encoder, stream.format)
    layouts = dict.fromkeys([stream.layout.name, *DEFAULT_LAYOUTS.get(channels, ()), "stereo", "mono"])
    for layout in layouts:
        for bit_rate in dict.fromkeys([wanted, None]):
            trial = av.codec.CodecContext.create(encoder.name, "w")
            trial.sample_rate, trial.layout, trial.format = rate, layout, sample_format
            if bit_rate:
                trial.bit_rate = bit_rate
            try:
                trial.open()
            except (av.FFmpegError, ValueError):
                continue
            return {
                "codec": encoder.name,
                "rate": rate,
                "layout": layout,
                "format": sample_format,
                "bit_rate": bit_rate,
            }
    raise UsageError(
        f"the encoder {encoder.name} takes no {stream.layout.name} of {stream.rate} Hz; use another, say aac"
    )


DEFAULT_LAYOUTS = {1: ("mono",), 2: ("stereo",), 3: ("2.1", "3.0"), 4: ("4.0", "quad"), 5: ("5.0",)} | {
    6: ("5.1",),
    7: ("6.1",),
    8: ("7.1",),
}
"""Layouts of as many channels, for encoders that lack the input's."""


def _nearest_rate(encoder: av.codec.Codec, rate: int) -> int:
    """The input's rate, else the next higher one that the encoder has, else its highest."""
    rates = sorted(encoder.audio_rates or ())
    if not rates or rate in rates:
        return rate
    return next((higher for higher in rates if higher > rate), rates[-1])


def _nearest_format(encoder: av.codec.Codec, source: av.AudioFormat) -> str:
    """The encoder's sample format with at least the input's bits, and no more than it needs."""
    formats = encoder.audio_formats or (source,)
    enough = [option for option in formats if option.bits >= source.bits] or list(formats)

    def distance(option: av.AudioFormat) -> tuple[int, bool]:
        return abs(option.bits - source.bits), option.name.rstrip("p") != source.name.rstrip("p")

    return min(enough, key=distance).name

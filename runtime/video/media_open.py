"""The one place that opens media with PyAV, 18 or 19: names of files, bytes that are no text, codecs.

PyAV 18 takes the handling of undecodable tags as an argument of `av.open`; 19 has none and always keeps
such bytes as surrogate escapes. Here both keep them, reading and writing, so no tag is lost.
"""

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from numbers import Rational
from typing import Any, BinaryIO

import av
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.container import InputContainer, OutputContainer
from av.format import ContainerFormat
from av.stream import Discard, Stream

from flashvsr_trt.errors import UsageError

PYAV_MAJOR = int(av.__version__.partition(".")[0])

SLOT_FORMATS = ("avi",)
"""Formats (FFmpeg's names) that store frames in slots of one rate, and not with times."""

TRANSPORT_FORMAT = "mpegts"
FAR_LOOK = {"analyzeduration": "60000000", "probesize": "100000000"}
"""Microseconds and bytes of an MPEG-TS that FFmpeg looks at where a stream appears later than usual."""

KEEP_UNDECODABLE_TAGS: Any = {"metadata_errors": "surrogateescape"} if PYAV_MAJOR < 19 else {}
"""What PyAV 18 must be told and 19 does of itself."""


def open_media(
    file: str | os.PathLike | BinaryIO,
    *,
    format_name: str | None = None,
    options: Mapping[str, str] | None = None,
) -> InputContainer:
    """Opens a file, a URL or an open binary file for reading; `options` go to the demuxer.

    A name that exists is a file, whatever it holds (`a:b.mp4` is no protocol). Raises what PyAV raises:
    `av.FFmpegError`, OSError or ValueError, for which the caller knows the words.
    """

    def opened(source: str | BinaryIO, **more: str) -> InputContainer:
        chosen = {**more, **(options or {})}
        return av.open(source, "r", format=format_name, container_options=chosen, **KEEP_UNDECODABLE_TAGS)

    if not isinstance(file, str | os.PathLike):
        return opened(file)
    container = opened(media_url(file))
    if container.format.name != TRANSPORT_FORMAT or all(map(has_parameters, container.streams)):
        return container
    container.close()
    return opened(media_url(file), **FAR_LOOK)


def has_parameters(stream: Stream) -> bool:
    """Whether enough of a stream was seen to copy it: sound says its rate with its first packets."""
    if isinstance(stream, av.AudioStream) and stream.codec_context is not None:
        return bool(stream.codec_context.sample_rate)
    return True


def read_packets(container: InputContainer, streams: Sequence[Stream] = ()) -> Iterator[av.Packet]:
    """Packets of the streams, or of all. Raises FFmpegError where reading fails."""
    with suppress(IndexError):  # PyAV, at the end, when streams appeared on the way: it marks the end of each
        yield from container.demux(*streams)


def discard_others(container: InputContainer, kept: Container[int]) -> None:
    """Has FFmpeg skip the packets of all streams but those whose indices are `kept`."""
    for stream in container.streams:
        if stream.index not in kept:
            stream.discard = Discard.all


def create_media(
    file: BinaryIO, *, format_name: str, options: Mapping[str, str] | None = None, buffer_size: int = 32768
) -> OutputContainer:
    """Starts writing a container of that format to an open binary file; `options` go to the muxer."""
    return av.open(
        file,
        "w",
        format=format_name,
        container_options=dict(options or {}),
        buffer_size=buffer_size,
        **KEEP_UNDECODABLE_TAGS,
    )


def format_of_name(path: str) -> ContainerFormat:
    """What FFmpeg writes under a name; nothing is. Raises ValueError where the extension says nothing."""
    return av.open(path, "w").format


def media_url(name: str | os.PathLike) -> str:
    """FFmpeg's spelling of an input: the file of that name where there is one, else the name as a URL."""
    name = os.fspath(name)
    if os.path.lexists(name) or not is_url(name):
        return f"file:{name}"
    return name


def is_url(name: str) -> bool:
    """Whether a name that is no file names something on a network or a device."""
    return "://" in name or name.startswith("file:")


def find_encoder(name: str, kind: str, advice: str) -> Codec:
    """FFmpeg's encoder of a kind of stream. Raises UsageError, with `advice`, where there is none."""
    try:
        encoder = Codec(name, "w")
    except (UnknownCodecError, RuntimeError) as error:
        raise UsageError(f"no {kind} encoder '{name}' in this FFmpeg; {advice}") from error
    if encoder.type != kind:
        raise UsageError(f"'{name}' encodes {encoder.type}, not {kind}; {advice}")
    return encoder


def find_pixel_format(name: str) -> av.VideoFormat:
    """FFmpeg's pixel format of a name. Raises UsageError where there is none."""
    try:
        return av.VideoFormat(name)
    except ValueError as error:
        raise UsageError(f"no pixel format '{name}'; use one such as yuv420p or rgb24") from error


def exact_fraction(value: Rational | None) -> Fraction | None:
    """A rate, time base or aspect of PyAV as a Fraction; None for 0, 0/0 and 1/0, FFmpeg's "not known".

    PyAV 19 gives its own rational, which rounds products to 32 bits.
    """
    if not value or not value.denominator:
        return None
    return Fraction(int(value.numerator), int(value.denominator))


def error_reason(error: Exception) -> str:
    """The error in few words, without codes and file names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

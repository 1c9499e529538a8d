"""The one place that opens media with PyAV, 18 or 19: names of files, bytes that are no text, fractions.

PyAV 18 takes the handling of undecodable tags as an argument of `av.open`; 19 has none and always keeps
such bytes as surrogate escapes. Here both keep them, reading and writing, so no tag is lost.
"""

import os
from collections.abc import Mapping
from fractions import Fraction
from numbers import Rational
from typing import BinaryIO

import av

PYAV_MAJOR = int(av.__version__.partition(".")[0])

TRANSPORT_FORMAT = "mpegts"
FAR_LOOK = {"analyzeduration": "60000000", "probesize": "100000000"}
"""Microseconds and bytes of an MPEG-TS that FFmpeg looks at where a stream appears later than usual."""

KEEP_UNDECODABLE_TAGS = {"metadata_errors": "surrogateescape"} if PYAV_MAJOR < 19 else {}
"""What PyAV 18 must be told and 19 does of itself."""


def open_media(
    file: str | os.PathLike | BinaryIO,
    *,
    format_name: str | None = None,
    options: Mapping[str, str] | None = None,
) -> av.container.InputContainer:
    """Opens a file, a URL or an open binary file for reading; `options` go to the demuxer.

    A name that exists is a file, whatever it holds (`a:b.mp4` is no protocol). Raises what PyAV raises:
    `av.FFmpegError`, OSError or ValueError, for which the caller knows the words.
    """
    named = isinstance(file, str | os.PathLike)
    source, chosen = media_url(file) if named else file, dict(options or {})
    container = av.open(source, "r", format=format_name, container_options=chosen, **KEEP_UNDECODABLE_TAGS)
    if not named or container.format.name != TRANSPORT_FORMAT or all(map(has_parameters, container.streams)):
        return container
    container.close()
    chosen = {**FAR_LOOK, **chosen}
    return av.open(source, "r", format=format_name, container_options=chosen, **KEEP_UNDECODABLE_TAGS)


def has_parameters(stream: av.stream.Stream) -> bool:
    """Whether enough of a stream was seen to copy it: sound says its rate with its first packets."""
    return stream.type != "audio" or stream.codec_context is None or bool(stream.codec_context.sample_rate)


def create_media(
    file: BinaryIO,
    *,
    format_name: str,
    options: Mapping[str, str] | None = None,
    buffer_size: int = 32768,
) -> av.container.OutputContainer:
    """Starts writing a container of that format to an open binary file; `options` go to the muxer."""
    return av.open(
        file,
        "w",
        format=format_name,
        container_options=dict(options or {}),
        buffer_size=buffer_size,
        **KEEP_UNDECODABLE_TAGS,
    )


def media_url(name: str | os.PathLike) -> str:
    """FFmpeg's spelling of an input: the file of that name where there is one, else the name as a URL."""
    name = os.fspath(name)
    if os.path.lexists(name) or not is_url(name):
        return f"file:{name}"
    return name


def is_url(name: str) -> bool:
    """Whether a name that is no file names something on a network or a device."""
    return "://" in name or name.startswith("file:")


def exact_fraction(value: Rational | None) -> Fraction | None:
    """A rate, time base or aspect of PyAV as a Fraction; None for 0, 0/0 and 1/0, FFmpeg's "not known".

    PyAV 19 gives its own rational, which rounds products to 32 bits.
    """
    return Fraction(value.numerator, value.denominator) if value and value.denominator else None

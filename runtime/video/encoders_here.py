"""Which video encoders this FFmpeg has, and which of them open on this machine."""

from contextlib import suppress
from dataclasses import dataclass

import av
from av.codec import Codec

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.video.encoder import (
    FULL_RANGE_CODECS,
    QUALITIES,
    find_video_encoder,
    why_closed,
)

LISTED = (*QUALITIES, "prores_ks", "ffv1", "mjpeg", "rawvideo")
"""Those that hold what this tool makes well; any other of FFmpeg's encoders may be named too."""

HARDWARE = ("_nvenc", "_qsv", "_amf", "_videotoolbox", "_mf")
"""Ends of the names of encoders that a chip has, and that take frames from memory."""


@dataclass(frozen=True)
class EncoderHere:
    """An encoder of this FFmpeg. `why_not` says, in FFmpeg's words, why it does not open; None if it does."""

    name: str
    makes: str
    quality: str
    hardware: bool
    why_not: str | None


def encoders_here(hardware: bool = False) -> list[EncoderHere]:
    """LISTED and those of HARDWARE, or these alone; each is opened once, to see whether it opens."""
    names = {name for name in av.codecs_available if name.endswith(HARDWARE)}
    if not hardware:
        names |= {name for name in LISTED if name in av.codecs_available}
    found = []
    for name in sorted(names, key=lambda name: (name.endswith(HARDWARE), name)):
        with suppress(UsageError):  # it only decodes, or is no video
            found.append(_looked_at(find_video_encoder(name)))
    return found


def _looked_at(codec: Codec) -> EncoderHere:
    quality = QUALITIES.get(codec.name)
    formats = [each.name for each in codec.video_formats or ()]
    first = ("yuvj420p",) if codec.name in FULL_RANGE_CODECS else ()
    usable = (name for name in (*first, "yuv420p", "nv12", *formats) if name in formats)
    return EncoderHere(
        name=codec.name,
        makes=codec.canonical_name,
        quality=f"{quality.option} {quality.default:g}" if quality else "-",
        hardware=codec.name.endswith(HARDWARE),
        why_not=why_closed(codec, next(usable, "yuv420p")),
    )

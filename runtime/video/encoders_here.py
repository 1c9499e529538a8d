"""Which video encoders this FFmpeg has, and which of them open on this machine."""

import os
from dataclasses import dataclass
from fractions import Fraction

import av
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError

from flashvsr_trt.runtime.video.encoder import FULL_RANGE_CODECS, PROBE_SIDE, QUALITIES
from flashvsr_trt.runtime.video.media_open import error_reason

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
    found = [_codec(name) for name in sorted(names, key=lambda name: (name.endswith(HARDWARE), name))]
    return [_looked_at(codec) for codec in found if codec is not None]


def _codec(name: str) -> Codec | None:
    """None for what only decodes, or is no video."""
    try:
        codec = Codec(name, "w")
    except (UnknownCodecError, RuntimeError):
        return None
    return codec if codec.type == "video" else None


def _looked_at(codec: Codec) -> EncoderHere:
    quality = QUALITIES.get(codec.name)
    return EncoderHere(
        name=codec.name,
        makes=codec.canonical_name,
        quality=f"{quality.option} {quality.default:g}" if quality else "-",
        hardware=codec.name.endswith(HARDWARE),
        why_not=_why_not(codec),
    )


def _why_not(codec: Codec) -> str | None:
    os.environ.setdefault("SVT_LOG", "1")  # errors only: its reports on the terminal have no option
    trial = codec.create("video")
    trial.height = trial.width = PROBE_SIDE
    formats = [each.name for each in codec.video_formats or ()]
    first = ("yuvj420p",) if codec.name in FULL_RANGE_CODECS else ()
    usable = (name for name in (*first, "yuv420p", "nv12", *formats) if name in formats)
    trial.pix_fmt, trial.time_base = next(usable, "yuv420p"), Fraction(1, 25)
    trial.framerate, trial.thread_count = Fraction(25), 1
    trial.options = dict(QUALITIES[codec.name].options) if codec.name in QUALITIES else {}
    try:
        trial.open()
    except FFmpegError as error:
        return error_reason(error)
    return None

"""Which encoder writes the video, in which pixel format, at which quality."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import av

from flashvsr_trt.errors import UsageError

DEFAULT_CODEC = "libx264"
CONTAINER_CODECS = {"webm": "libvpx-vp9"}
"""Containers that cannot hold the default codec."""

DEFAULT_PIXEL_FORMAT = "yuv420p"
ODD_PIXEL_FORMAT = "yuv444p"
"""Holds odd sides, which formats with subsampled chroma cannot."""


@dataclass(frozen=True)
class Quality:
    """An encoder's constant-quality option, a visually good value, and the worst value it takes."""

    option: str
    default: float
    worst: float
    options: Mapping[str, str] = field(default_factory=dict)
    """What else constant quality needs, or keeps the encoder's own chatter off the terminal."""


QUALITIES = {
    "libx264": Quality("crf", 17, 51),
    "libx264rgb": Quality("crf", 17, 51),
    "libx265": Quality("crf", 19, 51, {"x265-params": "log-level=error"}),
    "libvpx-vp9": Quality("crf", 22, 63, {"row-mt": "1", "cpu-used": "2"}),
    "libsvtav1": Quality("crf", 22, 63),
    "libaom-av1": Quality("crf", 22, 63, {"row-mt": "1", "cpu-used": "4"}),
    "h264_nvenc": Quality("cq", 19, 51),
    "hevc_nvenc": Quality("cq", 21, 51),
    "av1_nvenc": Quality("cq", 24, 63),
}


@dataclass(frozen=True)
class EncoderSettings:
    """Everything an encoder is opened with, apart from size and timing."""

    codec: str
    pixel_format: str
    options: Mapping[str, str]


def choose_encoder(
    container_format: str,
    size: tuple[int, int],
    codec: str | None,
    crf: float | None,
    pixel_format: str | None,
    options: Mapping[str, str] | None,
    notify: Callable[[str], None],
) -> EncoderSettings:
    """Settings for frames of `size` (height, width); None is chosen here.

    Raises UsageError for a codec, crf or pixel format that cannot be used.
    """
    encoder = _find_encoder(codec or CONTAINER_CODECS.get(container_format, DEFAULT_CODEC))
    if encoder.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: its reports on the terminal have no option
    chosen = _choose_pixel_format(encoder, size, pixel_format, notify)
    return EncoderSettings(encoder.name, chosen, {**_quality_options(encoder.name, crf), **(options or {})})


def _find_encoder(name: str) -> av.codec.Codec:
    try:
        encoder = av.codec.Codec(name, "w")
    except (av.codec.codec.UnknownCodecError, RuntimeError) as error:
        raise UsageError(
            f"no video encoder '{name}' in this FFmpeg; use one such as {', '.join(QUALITIES)}"
        ) from error
    if encoder.type != "video":
        raise UsageError(f"'{name}' encodes {encoder.type}, not video; use one of {', '.join(QUALITIES)}")
    return encoder


def _quality_options(codec: str, crf: float | None) -> dict[str, str]:
    quality = QUALITIES.get(codec)
    if quality is None:
        if crf is not None:
            raise UsageError(f"crf is not known for {codec}; leave it out and use encoder options instead")
        return {}
    if crf is not None and not 0 <= crf <= quality.worst:
        raise UsageError(f"crf {crf:g} is not one of {codec}; use 0 (best) to {quality.worst:g} (worst)")
    return {quality.option: f"{quality.default if crf is None else crf:g}", **quality.options}


def _choose_pixel_format(
    encoder: av.codec.Codec, size: tuple[int, int], wanted: str | None, notify: Callable[[str], None]
) -> str:
    supported = [pixel_format.name for pixel_format in encoder.video_formats or ()]
    shape = f"{size[1]}x{size[0]}"
    if wanted is not None:
        try:
            av.VideoFormat(wanted)
        except ValueError as error:
            raise UsageError(f"no pixel format '{wanted}'; use one such as {DEFAULT_PIXEL_FORMAT}") from error
        if supported and wanted not in supported:
            raise UsageError(f"{encoder.name} has no {wanted}; use one of {', '.join(supported)}")
        if not _holds(wanted, size):
            raise UsageError(f"{wanted} cannot hold an odd side, and the output is {shape}; use yuv444p")
        return wanted
    if not supported or DEFAULT_PIXEL_FORMAT in supported:
        supported = [DEFAULT_PIXEL_FORMAT, ODD_PIXEL_FORMAT, *supported]
    chosen = next((name for name in supported if _holds(name, size)), None)
    if chosen is None or (encoder.video_formats and chosen not in {f.name for f in encoder.video_formats}):
        raise UsageError(f"{encoder.name} cannot encode an odd side, and the output is {shape}; use libx264")
    if chosen != DEFAULT_PIXEL_FORMAT:
        why = (
            f"the output is {shape}, with an odd side" if chosen == ODD_PIXEL_FORMAT else "as the codec needs"
        )
        notify(f"pixel format {chosen} instead of {DEFAULT_PIXEL_FORMAT}: {why}")
    return chosen


def _holds(pixel_format: str, size: tuple[int, int]) -> bool:
    """Whether both sides are whole numbers of the format's chroma samples."""
    layout = av.VideoFormat(pixel_format)
    if layout.is_rgb:
        return True
    height_step, width_step = 16 // layout.chroma_height(16), 16 // layout.chroma_width(16)
    return size[0] % height_step == 0 and size[1] % width_step == 0

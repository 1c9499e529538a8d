"""Which encoder writes the video, in which pixel format, at which quality."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.codec import Codec
from av.error import FFmpegError

from flashvsr_trt.errors import UsageError
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.request import OutputOptions
from flashvsr_trt.runtime.video.beside import hdr_options
from flashvsr_trt.runtime.video.color import chroma_steps, has_alpha, is_subsampled, sample_bits
from flashvsr_trt.runtime.video.info import VideoInfo
from flashvsr_trt.runtime.video.media_open import error_reason, find_encoder, find_pixel_format

DEFAULT_CODEC = "libx264"
CONTAINER_CODECS = {"webm": "libvpx-vp9", "yuv4mpegpipe": "rawvideo"}
"""Containers that cannot hold the default codec."""

DEEP_FALLBACK = "libsvtav1"
"""Takes 10 bits where a container's own codec does not."""

DEFAULT_PIXEL_FORMAT = "yuv420p"
PREFERRED_FORMATS = {
    (False, False): (DEFAULT_PIXEL_FORMAT, "yuv444p"),
    (True, False): ("yuv420p10le", "p010le", "yuv422p10le", "yuv444p10le", "rgb48be"),
    (False, True): ("yuva420p", "rgba", "argb", "bgra", "yuva444p"),
    (True, True): ("yuva420p10le", "yuva444p10le", "rgba64be"),
}
"""By deeper than 8 bits, and alpha. Formats with subsampled chroma cannot hold odd sides."""

FULL_RANGE_CODECS = ("mjpeg",)
"""They refuse limited range, which FFmpeg says of them by the old yuvj formats."""

PROBE_SIDE = 256
"""Height and width at which an encoder is opened to see whether it opens with a pixel format."""

WITHOUT_ALPHA = ("yuv4mpegpipe",)
"""Containers that hold no alpha whatever the codec."""

CODECS_WITH_ALPHA = {"mov": "prores_ks", "webm": "libvpx-vp9", "matroska": "libvpx-vp9"}
"""What a container holds alpha in, chosen for inputs that have it."""

ALPHA_CODECS = "--codec prores_ks in .mov, libvpx-vp9 in .webm and .mkv, and pictures (out/%05d.png)"
DEEP_CODECS = "--codec libx264, libx265, libsvtav1, and pictures (out/%05d.png)"

LOCATION_WRITERS = ("libx264", "libx265")
"""Encoders that write where 4:2:0 chroma lies into their stream, wherever that is."""

LOCATIONS_OF_CODEC = {"libsvtav1": ("left", "topleft"), "mjpeg": ("center",)}
LOCATIONS_OF_CONTAINER = {"matroska": ("left", "center", "topleft"), "webm": ("left", "center", "topleft")}


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
    "libx265": Quality("crf", 19, 51, {"x265-params": "log-level=error", "a53cc": "1"}),
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
    chroma_location: str = "left"
    """Where chroma samples are put, in FFmpeg's words."""


def choose_encoder(
    container_format: str,
    size: tuple[int, int],
    info: VideoInfo,
    wanted: OutputOptions,
    notify: Notify,
) -> EncoderSettings:
    """Settings for frames of `size` (height, width) made from the input `info`; what is None is chosen here.

    Raises UsageError for a codec, crf or pixel format that cannot be used.
    """
    encoder = find_video_encoder(wanted.codec or _default_codec(container_format, size, info, notify))
    pixel_format = wanted.pixel_format
    if pixel_format is None:
        needs = info.bits > 8, info.alpha and container_format not in WITHOUT_ALPHA
        pixel_format = _choose_pixel_format(encoder, size, needs, notify)
    else:
        _check_pixel_format(encoder, size, pixel_format)
    announce_losses(encoder.name, pixel_format, info, notify)
    location = _chroma_location(encoder.name, container_format, pixel_format, info.chroma_location)
    options = {
        **_quality_options(encoder.name, wanted.crf),
        **({"chroma_sample_location": location} if is_subsampled(av.VideoFormat(pixel_format)) else {}),
        **wanted.encoder_options,
    }
    for option, settings in hdr_options(encoder.name, info.side_data).items():
        options[option] = ":".join(filter(None, (settings, options.get(option))))
    return EncoderSettings(encoder.name, pixel_format, options, location)


def _default_codec(container_format: str, size: tuple[int, int], info: VideoInfo, notify: Notify) -> str:
    """The usual codec of the container, or one that holds the input's alpha or 10 bits where that cannot."""
    usual = CONTAINER_CODECS.get(container_format, DEFAULT_CODEC)
    chosen = usual
    if info.alpha:
        chosen = CODECS_WITH_ALPHA.get(container_format, usual)
    elif info.bits > 8 and not _formats(find_video_encoder(usual), (True, False), size):
        chosen = DEEP_FALLBACK
    if chosen != usual:
        notify(f"{chosen} instead of {usual}: it holds {'alpha' if info.alpha else '10 bits a sample'}")
    return chosen


def find_video_encoder(name: str) -> Codec:
    """FFmpeg's encoder of that name. Raises UsageError where there is none, or none of video."""
    encoder = find_encoder(name, "video", f"use one such as {', '.join(QUALITIES)}")
    if encoder.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: its reports on the terminal have no option
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


def _check_pixel_format(encoder: Codec, size: tuple[int, int], wanted: str) -> None:
    find_pixel_format(wanted)
    supported = _supported(encoder)
    if supported and wanted not in supported:
        raise UsageError(f"{encoder.name} has no {wanted}; use one of {', '.join(supported)}")
    if not _holds(wanted, size):
        raise UsageError(
            f"{wanted} cannot hold an odd side, and the output is {size[1]}x{size[0]}; use yuv444p"
        )


def _supported(encoder: Codec) -> list[str]:
    """Pixel formats that an encoder takes from memory; empty where it names none.

    Raises UsageError for an encoder that takes frames of its own device alone.
    """
    formats = encoder.video_formats or ()
    # Formats of frames on a device have no components.
    named = [pixel_format.name for pixel_format in formats if pixel_format.components]
    if formats and not named:
        raise UsageError(
            f"{encoder.name} takes frames of its device alone ({formats[0].name}); use one such as "
            f"{', '.join(QUALITIES)}"
        )
    return named


def _formats(encoder: Codec, needs: tuple[bool, bool], size: tuple[int, int]) -> list[str]:
    """Pixel formats of the encoder that hold `needs` (more than 8 bits, alpha) and the size, best first."""
    deep, alpha = needs
    supported = _supported(encoder)
    wanted = [name for name in PREFERRED_FORMATS[needs] if not supported or name in supported]
    if encoder.name in FULL_RANGE_CODECS:
        wanted = [name for name in supported if name.startswith("yuvj")]
    for name in supported:
        layout = av.VideoFormat(name)
        if (sample_bits(layout) > 8 or not deep) and (has_alpha(layout) or not alpha):
            wanted.append(name)
    return [
        name
        for name in wanted
        # Some name 10 bits or alpha that their build or GPU lacks.
        if _holds(name, size) and (needs == (False, False) or why_closed(encoder, name) is None)
    ]


def why_closed(encoder: Codec, pixel_format: str) -> str | None:
    """Why the encoder does not open with a format, in FFmpeg's words; None if it does."""
    trial = encoder.create("video")
    trial.height = trial.width = PROBE_SIDE
    trial.pix_fmt, trial.time_base = pixel_format, Fraction(1, 25)
    trial.framerate, trial.thread_count = Fraction(25), 1
    trial.options = dict(QUALITIES[encoder.name].options) if encoder.name in QUALITIES else {}
    try:
        trial.open()
    except FFmpegError as error:
        return error_reason(error)
    return None


def _choose_pixel_format(
    encoder: Codec, size: tuple[int, int], needs: tuple[bool, bool], notify: Notify
) -> str:
    """The format that loses least: of depth and alpha, alpha is kept first."""
    deep, alpha = needs
    shape = f"{size[1]}x{size[0]}"
    for attempt in ((deep, alpha), (False, alpha), (deep, False), (False, False)):
        if formats := _formats(encoder, attempt, size):
            chosen, usual = formats[0], PREFERRED_FORMATS[attempt][0]
            if chosen != usual:
                odd = size[0] % 2 or size[1] % 2
                why = f"the output is {shape}, with an odd side" if odd else "as the codec needs"
                notify(f"pixel format {chosen} instead of {usual}: {why}")
            return chosen
    raise UsageError(f"{encoder.name} cannot encode an odd side, and the output is {shape}; use libx264")


def announce_losses(codec: str, pixel_format: str, info: VideoInfo, notify: Notify) -> None:
    """One line for each of depth and alpha that the output cannot hold."""
    layout = av.VideoFormat(pixel_format)
    if info.bits > 8 and sample_bits(layout) <= 8:
        notify(f"{info.bits} bits a sample become 8 in {codec} {pixel_format}; {DEEP_CODECS} keep 10 or more")
    if info.alpha and not has_alpha(layout):
        notify(f"alpha is not kept in {codec} {pixel_format}; {ALPHA_CODECS} keep it")


def _chroma_location(codec: str, container_format: str, pixel_format: str, wanted: str) -> str:
    """The input's chroma location where the output can say it, else the one that decoders assume."""
    layout = av.VideoFormat(pixel_format)
    is_420 = chroma_steps(layout) == (2, 2)
    if codec in LOCATION_WRITERS:
        # H.264 and HEVC say it of 4:2:0 alone; other chroma is at the left.
        return wanted if is_420 else "left"
    if container_format == "yuv4mpegpipe" and is_420 and sample_bits(layout) == 8:
        return wanted if wanted in ("left", "center", "topleft") else "left"
    known = LOCATIONS_OF_CODEC.get(codec) or LOCATIONS_OF_CONTAINER.get(container_format, ())
    if wanted in known:
        return wanted
    return known[0] if known else "left"


def _holds(pixel_format: str, size: tuple[int, int]) -> bool:
    """Whether both sides are whole numbers of the format's chroma samples."""
    return not any(
        side % step for side, step in zip(size, chroma_steps(av.VideoFormat(pixel_format)), strict=True)
    )

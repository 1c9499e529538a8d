"""What a frame holds that the network does not take: samples deeper than 8 bits, alpha, side data.

The network reads and writes 8-bit RGB. What rounding to 8 bits took from a deeper input, and its alpha, go
round the network: they are upscaled bicubically by FFmpeg's scaler and joined with the network's result.

PyAV attaches nothing to a frame, but its scaler copies all that rides on one. So a frame with captions
leaves a tiny picture of itself, which is scaled to the output's size again and filled with its pixels.
HDR10 metadata is the same for a whole video: encoders take it as an option.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import Interpolation, VideoReformatter

from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.video.color import LEVEL, WHITE

HALF = LEVEL // 2
"""A remainder of 0: remainders are stored as bytes with this added."""

BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


@dataclass(frozen=True)
class Beside:
    """Of one frame of [H, W] pixels."""

    remainder: np.ndarray | None = None
    """uint8 [H, W, 3]: 16-bit RGB less the network's 8-bit pixels times LEVEL, plus HALF."""
    alpha: np.ndarray | None = None
    """uint8 or uint16 [H, W]: opaque is the highest number."""
    carrier: av.VideoFrame | None = None
    """A tiny picture that carries captions and the like; see `carrier`."""


NOTHING = Beside()


def split(deep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint16 RGB [H, W, 3] -> the nearest 8-bit pixels and the remainder, both uint8 [H, W, 3]."""
    total = np.minimum(deep, WHITE + HALF - 1) + np.uint16(HALF)
    return (total >> 8).astype(np.uint8), (total & 0xFF).astype(np.uint8)


def join(pixels: np.ndarray, remainder: np.ndarray) -> np.ndarray:
    """`split` undone: uint8 [H, W, 3] twice -> uint16 RGB [H, W, 3]."""
    total = pixels.astype(np.uint16)
    total <<= 8
    total |= remainder
    np.maximum(total, HALF, out=total)
    total -= HALF
    return total


class BesideUpscaler:
    """Brings what is beside a frame to the output's size.

    `upscaled` is (height, width) of the whole upscaled frame; the output of `size` is its middle.
    """

    def __init__(self, upscaled: tuple[int, int], size: tuple[int, int]) -> None:
        self._upscaled, self._size = upscaled, size
        self._top, self._left = ((whole - part) // 2 for whole, part in zip(upscaled, size, strict=True))
        self._remainders, self._alphas = VideoReformatter(), VideoReformatter()

    def remainder(self, remainder: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [H', W', 3]."""
        # As planes of yuv444p the three are scaled each for itself: RGB would go through YUV.
        planes = np.ascontiguousarray(remainder.transpose(2, 0, 1))
        scaled = self._scale(planes, "yuv444p", self._remainders)
        return np.ascontiguousarray(scaled.transpose(1, 2, 0))

    def alpha(self, alpha: np.ndarray) -> np.ndarray:
        """[H, W] -> [H', W'] of the same type."""
        return self._scale(alpha, "gray16le" if alpha.dtype == np.uint16 else "gray", self._alphas)

    def _scale(self, samples: np.ndarray, pixel_format: str, reformatter: VideoReformatter) -> np.ndarray:
        height, width = self._upscaled
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(samples), format=pixel_format)
        scaled = reformatter.reformat(frame, width, height, interpolation=BICUBIC).to_ndarray()
        rows = slice(self._top, self._top + self._size[0])
        columns = slice(self._left, self._left + self._size[1])
        return scaled[..., rows, columns]


CAPTIONS = "A53_CC"
CARRIED = (CAPTIONS, "STEREO3D")
"""Kinds that encoders take from frames."""

MASTERING, LIGHT = "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"

HDR_OPTIONS = {
    "libx264": ("x264-params", "mastering-display", "cll", True),
    "libx265": ("x265-params", "master-display", "max-cll", True),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", False),
}
"""Of an encoder: its option, the keys in it, and whether it counts in SMPTE ST 2086's units."""

KEPT_BY = {
    CAPTIONS: ("libx264", "libx264rgb", "libx265"),
    "STEREO3D": ("libx264", "libx264rgb"),
    MASTERING: tuple(HDR_OPTIONS),
    LIGHT: tuple(HDR_OPTIONS),
}

WORDS = {
    CAPTIONS: "closed captions (A53)",
    "STEREO3D": "how the stereo views are packed",
    MASTERING: "HDR10 mastering display",
    LIGHT: "HDR10 content light level",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "SPHERICAL": "spherical projection",
    "FILM_GRAIN_PARAMS": "film grain parameters",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing environment",
    "ICC_PROFILE": "ICC profile",
    "S12M_TIMECODE": "timecode of each frame",
    "AFD": "active format description",
    "PANSCAN": "pan and scan",
}
"""What is worth a word when it is lost. The display matrix is carried elsewhere."""

CARRIER_SIDE = 16


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """Bytes of each kind of side data that PyAV names, by its name; other kinds (EXIF) are left out."""
    named, entries = Type.__members__, cast(SideDataContainer, frame.side_data)
    # PyAV 19 gives the kinds, as a mapping's keys; 18 gives the data.
    found = (entries[entry] if isinstance(entry, Type) else entry for entry in entries)
    return {data.type.name: bytes(data) for data in found if data.type.name in named}


def _unnamed_type(cls: type[Type], value: object) -> Type:
    """A kind that FFmpeg has and this PyAV has no name for: PyAV would refuse the whole frame."""
    unnamed = object.__new__(cls)
    unnamed._name_, unnamed._value_ = f"TYPE_{value}", value
    return unnamed


# The enum's own hook, which its stub does not show.
Type._missing_ = classmethod(_unnamed_type)  # pyright: ignore[reportAttributeAccessIssue]


def carrier(frame: av.VideoFrame) -> av.VideoFrame | None:
    """A tiny picture with all that rides on `frame`; None where nothing does that encoders take."""
    if not any(kind in CARRIED for kind in side_data(frame)):
        return None
    return VideoReformatter().reformat(frame, CARRIER_SIDE, CARRIER_SIDE, "gray")


def loaded(frame: av.VideoFrame, carrier: av.VideoFrame) -> av.VideoFrame:
    made = VideoReformatter().reformat(
        carrier, frame.width, frame.height, frame.format.name, interpolation=Interpolation.POINT
    )
    for target, plane in zip(made.planes, frame.planes, strict=True):
        target.update(bytes(plane))
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
    made.pict_type = frame.pict_type  # the carrier's would force the input's key frames on the encoder
    return made


class LossReport:
    """Tells `notify`, one line for each, what of the input's frames the encoder `codec` does not keep."""

    def __init__(self, name: str, codec: str, notify: Notify) -> None:
        self._name, self._codec, self._notify = name, codec, notify
        self._told: set[str] = set()

    def saw(self, kinds: Mapping[str, bytes]) -> None:
        for kind in kinds:
            words = WORDS.get(kind)
            if words and words not in self._told and self._codec not in KEPT_BY.get(kind, ()):
                self._told.add(words)
                others = ", ".join(KEPT_BY.get(kind, ()))
                why = f"{self._codec} takes none; {others} would" if others else "no encoder here takes it"
                self._notify(f"{self._name}: {words} not kept: {why}")


def hdr_options(codec: str, kinds: Mapping[str, bytes]) -> dict[str, str]:
    """The encoder's option for HDR10 metadata of the input; empty without any."""
    if codec not in HDR_OPTIONS:
        return {}
    option, mastering_key, light_key, in_units = HDR_OPTIONS[codec]
    settings = []
    if MASTERING in kinds and (display := _mastering_display(kinds[MASTERING], in_units)):
        settings.append(f"{mastering_key}={display}")
    if LIGHT in kinds:
        brightest, average = np.frombuffer(kinds[LIGHT], np.uint32)[:2]
        settings.append(f"{light_key}={brightest},{average}")
    return {option: ":".join(settings)} if settings else {}


def _mastering_display(data: bytes, in_units: bool) -> str | None:
    """AVMasteringDisplayMetadata (ten rationals, two flags) as encoders spell it; None when it is partial."""
    numbers = np.frombuffer(data, np.int32)
    if len(numbers) < 22 or not (numbers[20] and numbers[21]) or not numbers[1:20:2].all():
        return None
    values = [Fraction(int(a), int(b)) for a, b in numbers[:20].reshape(10, 2)]
    red, green, blue, white = (values[index : index + 2] for index in (0, 2, 4, 6))
    darkest, brightest = values[8:]

    def pair(numbers: list[Fraction], units: int) -> str:
        shown = [str(round(v * units)) if in_units else f"{float(v):.5f}" for v in numbers]
        return f"({shown[0]},{shown[1]})"

    points = (("G", green), ("B", blue), ("R", red), ("WP", white))
    chosen = "".join(name + pair(point, 50_000) for name, point in points)
    return chosen + "L" + pair([brightest, darkest], 10_000)

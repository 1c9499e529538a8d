"""RGB to and from the colours a video stores: its matrix and range are read, used, and written back.

Numbers are those of ITU-T H.273, as in FFmpeg's AVColorSpace, AVColorRange and so on.
"""

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from flashvsr_trt.errors import VideoError

MATRIX_RGB, MATRIX_BT709, MATRIX_UNSPECIFIED, MATRIX_BT601 = 0, 1, 2, 6
RANGE_UNSPECIFIED, RANGE_LIMITED, RANGE_FULL = 0, 1, 2
HD_LINES = 720
"""From this height on an untagged video is bt709, below it bt601: what players assume."""

SWSCALE_MATRIX = {
    MATRIX_BT709: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    MATRIX_BT601: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
"""H.273 matrices that FFmpeg's scaler computes, and its own numbers for them."""

ACCURATE = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
"""Without these flags the scaler is off by several levels and skips every other chroma column."""


@dataclass(frozen=True)
class ColorTags:
    """How numbers in a frame mean colours. Primaries and transfer are passed on, never converted."""

    matrix: int
    color_range: int
    primaries: int
    transfer: int


def read_color_tags(frame: av.VideoFrame) -> ColorTags:
    """The tags of a decoded frame, with matrix and range resolved where the file leaves them open.

    Raises VideoError for a matrix that cannot be converted (YCgCo, ICtCp and the like).
    """
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if frame.format.is_rgb or frame.format.has_palette:
        return ColorTags(MATRIX_RGB, RANGE_FULL, primaries, transfer)
    matrix, color_range = int(frame.colorspace), int(frame.color_range)
    if matrix in (MATRIX_UNSPECIFIED, MATRIX_RGB):
        matrix = MATRIX_BT709 if frame.height >= HD_LINES else MATRIX_BT601
    if matrix not in SWSCALE_MATRIX:
        raise VideoError(
            f"colour matrix {matrix} (H.273) cannot be converted to RGB; convert the input to bt709 first"
        )
    if color_range == RANGE_UNSPECIFIED:
        color_range = RANGE_FULL if frame.format.name.startswith("yuvj") else RANGE_LIMITED
    return ColorTags(matrix, color_range, primaries, transfer)


def encoded_color_tags(source: ColorTags, pixel_format: str) -> ColorTags:
    """Tags of the output: those of the input, except that RGB becomes limited bt709 in a YUV format."""
    if av.VideoFormat(pixel_format).is_rgb:
        return ColorTags(MATRIX_RGB, RANGE_FULL, source.primaries, source.transfer)
    if source.matrix == MATRIX_RGB:
        return ColorTags(MATRIX_BT709, RANGE_LIMITED, source.primaries, source.transfer)
    return source


def to_rgb(frame: av.VideoFrame, tags: ColorTags, reformatter: VideoReformatter) -> np.ndarray:
    """Pixels of a decoded frame as uint8 RGB [H, W, 3]; deeper samples are rounded to 8 bits."""
    frame.color_range = tags.color_range
    frame.colorspace = tags.matrix
    rgb = reformatter.reformat(
        frame, format="rgb24", interpolation=ACCURATE, src_color_range=tags.color_range, dst_color_range=2
    )
    return rgb.to_ndarray()


def from_rgb(
    pixels: np.ndarray, tags: ColorTags, pixel_format: str, reformatter: VideoReformatter
) -> av.VideoFrame:
    """A frame of `pixel_format` with colours `tags` from uint8 RGB [H, W, 3]."""
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    if av.VideoFormat(pixel_format).is_rgb:
        frame = reformatter.reformat(rgb, format=pixel_format, interpolation=ACCURATE)
    else:
        frame = reformatter.reformat(
            rgb,
            format=pixel_format,
            interpolation=ACCURATE,
            src_color_range=RANGE_FULL,
            dst_colorspace=SWSCALE_MATRIX[tags.matrix],
            dst_color_range=tags.color_range,
        )
    frame.colorspace, frame.color_range = tags.matrix, tags.color_range
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    return frame

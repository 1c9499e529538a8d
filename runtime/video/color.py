"""RGB to and from the colours a video stores: its matrix and range are read, used, and written back.

Numbers are those of ITU-T H.273, as in FFmpeg's AVColorSpace, AVColorRange and so on.
"""

from dataclasses import dataclass, replace

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.video.frame_filter import FrameFilter

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

CURVES = {16: "PQ", 18: "HLG"}
"""H.273 transfers of HDR video. The network was trained on neither and sees their numbers as they are."""

RGB_FORMATS = {
    (False, False): "rgb24",
    (False, True): "rgba",
    (True, False): "rgb48le",
    (True, True): "rgba64le",
}
"""By deeper than 8 bits, and alpha: what pixels are in as arrays."""

LEVEL = 256
"""Numbers of 16-bit RGB for one of 8 bits: FFmpeg's scaler counts so, and white is 255 * 256."""

WHITE = 255 * LEVEL


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
        full = frame.format.name.startswith("yuvj") or is_gray(frame.format)
        color_range = RANGE_FULL if full else RANGE_LIMITED
    return ColorTags(matrix, color_range, primaries, transfer)


def encoded_color_tags(source: ColorTags, pixel_format: str) -> ColorTags:
    """Tags of the output: those of the input, except that RGB becomes limited bt709 in a YUV format.

    Gray and JPEG's formats (yuvj) are of full range.
    """
    layout = av.VideoFormat(pixel_format)
    if layout.is_rgb:
        return ColorTags(MATRIX_RGB, RANGE_FULL, source.primaries, source.transfer)
    if source.matrix == MATRIX_RGB:
        source = ColorTags(MATRIX_BT709, RANGE_LIMITED, source.primaries, source.transfer)
    # FFmpeg's scaler writes gray in full range whatever it is told.
    full = is_gray(layout) or pixel_format.startswith("yuvj")
    return replace(source, color_range=RANGE_FULL) if full else source


def sample_bits(layout: av.VideoFormat) -> int:
    return max(component.bits for component in layout.components)


def has_alpha(layout: av.VideoFormat) -> bool:
    return any(component.is_alpha for component in layout.components)


def is_gray(layout: av.VideoFormat) -> bool:
    """Whether the format has luma alone, with or without alpha."""
    return not layout.is_rgb and not layout.has_palette and len(layout.components) < 3


def is_subsampled(layout: av.VideoFormat) -> bool:
    """Whether a chroma sample stands for more than one pixel."""
    return chroma_steps(layout) != (1, 1)


def chroma_steps(layout: av.VideoFormat) -> tuple[int, int]:
    """Rows and columns of pixels that one chroma sample stands for."""
    if layout.is_rgb or len(layout.components) < 3:
        return 1, 1
    return 16 // layout.chroma_height(16), 16 // layout.chroma_width(16)


def to_rgb(
    frame: av.VideoFrame, tags: ColorTags, reformatter: VideoReformatter, pixel_format: str = "rgb24"
) -> np.ndarray:
    """Pixels of a decoded frame as RGB [H, W, 3]: uint8, of deeper samples rounded to 8 bits.

    `pixel_format` is one of RGB_FORMATS. 16-bit colours are uint16 with white at WHITE;
    opaque is 255 or 65535.
    """
    layout = frame.format
    frame.color_range = tags.color_range
    frame.colorspace = tags.matrix
    rgb = reformatter.reformat(
        frame,
        format=pixel_format,
        interpolation=ACCURATE,
        src_color_range=tags.color_range,
        dst_color_range=RANGE_FULL,
    ).to_ndarray()
    deep = rgb.dtype == np.uint16
    if deep:
        _count_in_levels(rgb, layout, tags)
    if is_gray(layout) and tags.color_range == RANGE_LIMITED:
        black, white, unit = 16, 235, LEVEL if deep else 1
        stretched = (rgb[..., :3] - np.float32(black * unit)) * np.float32(255 / (white - black))
        rgb[..., :3] = stretched.round().clip(0, 65535 if deep else 255)
    return rgb


def _count_in_levels(rgb: np.ndarray, layout: av.VideoFormat, tags: ColorTags) -> None:
    """Puts the white of what the scaler gave at WHITE, and opaque at 65535; RGB(A) uint16, in place."""
    bits = sample_bits(layout)
    top = 65535 if layout.is_rgb or layout.has_palette or bits > 16 else (2**bits - 1) << (16 - bits)
    if rgb.shape[2] == 4 and top != 65535:
        rgb[..., 3] = (rgb[..., 3] * np.float32(65535 / top)).round()
    if top != WHITE and tags.color_range == RANGE_FULL:
        rgb[..., :3] = (rgb[..., :3] * np.float32(WHITE / top)).round()


def from_rgb(
    pixels: np.ndarray,
    tags: ColorTags,
    pixel_format: str,
    reformatter: VideoReformatter,
    chroma: FrameFilter | None = None,
    alpha: np.ndarray | None = None,
) -> av.VideoFrame:
    """A frame of `pixel_format` with colours `tags` from RGB [H, W, 3]: uint8, or uint16 with white at WHITE.

    `chroma` sets where chroma samples lie; None is where FFmpeg's scaler puts them, the centre. `alpha`
    [H, W] is uint8 or uint16 with opaque at the highest number; None is opaque.
    """
    layout = av.VideoFormat(pixel_format)
    deep = pixels.dtype == np.uint16
    if deep and layout.is_rgb:
        pixels = (np.minimum(pixels, WHITE) * np.float32(65535 / WHITE)).round().astype(np.uint16)
    alpha_plane = _alpha_plane(layout)
    if alpha is not None and alpha_plane is None:
        pixels = np.dstack([pixels, scaled_samples(alpha, pixels.itemsize * 8)])
    rgb = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(pixels), format=RGB_FORMATS[deep, pixels.shape[2] == 4]
    )
    if chroma and is_subsampled(layout):
        rgb = chroma.through(rgb)
    frame = reformatter.reformat(
        rgb,
        format=pixel_format,
        interpolation=ACCURATE,
        src_color_range=None if layout.is_rgb else RANGE_FULL,
        dst_colorspace=None if layout.is_rgb else SWSCALE_MATRIX[tags.matrix],
        dst_color_range=None if layout.is_rgb else tags.color_range,
    )
    if alpha is not None and alpha_plane is not None:
        plane, samples = frame.planes[alpha_plane], scaled_samples(alpha, sample_bits(layout))
        rows = np.zeros((plane.height, plane.line_size // samples.itemsize), samples.dtype)
        rows[:, : samples.shape[1]] = samples
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = tags.matrix, tags.color_range
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    return frame


def _alpha_plane(layout: av.VideoFormat) -> int | None:
    """The plane that holds alpha alone, which the scaler would write a level off; None where none does."""
    planes = [component.plane for component in layout.components]
    own = has_alpha(layout) and not layout.is_big_endian and planes.count(max(planes)) == 1
    return max(planes) if own else None


def scaled_samples(samples: np.ndarray, bits: int) -> np.ndarray:
    """uint8 or uint16 samples, whose highest number means all, as samples of `bits`."""
    top, wanted = np.iinfo(samples.dtype).max, 2**bits - 1
    if top == wanted:
        return samples
    return (samples * np.float32(wanted / top)).round().astype(np.uint16 if bits > 8 else np.uint8)

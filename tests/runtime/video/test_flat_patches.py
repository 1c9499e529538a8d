"""Flat patches of colour through a whole run with a nearest-neighbour session: what goes in comes out."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.runtime.nearest_session import SCALE, upscale

LIMITED, FULL = 1, 2
PATCHES = np.random.default_rng(40).integers(4, 252, (5, 8, 3))
"""40 colours, as 8-bit RGB."""
SIDE = 16
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}

SET_UPS = {
    # matrix, range, primaries, transfer, pixel format of the input, and of the output
    "601": (6, LIMITED, 6, 6, "yuv420p", None),
    "709": (1, LIMITED, 1, 1, "yuv420p", None),
    "709 full": (1, FULL, 1, 1, "yuv420p", None),
    "470bg full": (5, FULL, 5, 6, "yuv444p", "yuv444p"),
    "2020 PQ": (9, LIMITED, 9, 16, "yuv420p10le", None),
    "2020 HLG": (9, LIMITED, 9, 18, "yuv420p10le", None),
    "4:2:2": (1, LIMITED, 1, 1, "yuv422p", "yuv422p"),
    "4:4:4 10 bit": (1, LIMITED, 1, 1, "yuv444p10le", "yuv444p10le"),
    "10 bit full": (1, FULL, 1, 1, "yuv420p10le", None),
    "alpha": (1, LIMITED, 1, 1, "yuva420p", None),
    "alpha 10 bit": (1, LIMITED, 1, 1, "yuva444p10le", "yuva444p10le"),
}


def encoded(rgb: np.ndarray, matrix: int, color_range: int, bits: int) -> np.ndarray:
    """[..., 3] 8-bit RGB -> Y', Cb, Cr as whole numbers of `bits` (H.273 section 8.3)."""
    red_weight, blue_weight = WEIGHTS[matrix]
    red, green, blue = np.moveaxis(rgb / 255, -1, 0)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = (blue - luma) / (2 * (1 - blue_weight)), (red - luma) / (2 * (1 - red_weight))
    top, unit = 2**bits - 1, 2 ** (bits - 8)
    if color_range == FULL:
        values = [luma * top, *(part * top + 128 * unit for part in chroma)]
    else:
        values = [(16 + 219 * luma) * unit, *((128 + 224 * part) * unit for part in chroma)]
    return np.stack(values).round().astype(int)


def sample_type(frame: av.VideoFrame) -> type:
    return np.uint16 if frame.format.components[0].bits > 8 else np.uint8


def write_patches(path: Path, set_up: tuple) -> np.ndarray:
    """Writes them losslessly, alpha as well; returns the stored numbers [planes, 5, 8]."""
    matrix, color_range, primaries, transfer, pixel_format, _ = set_up
    frame = av.VideoFrame(SIDE * 8, SIDE * 5, pixel_format)
    bits = frame.format.components[0].bits
    stored = encoded(PATCHES, matrix, color_range, bits)
    if len(frame.planes) == 4:
        alpha = np.linspace(0, 2**bits - 1, 40).round().astype(int).reshape(1, 5, 8)
        stored = np.concatenate([stored, alpha])
    for plane, numbers in zip(frame.planes, stored, strict=True):
        rows = np.zeros((plane.height, plane.line_size // sample_type(frame)().itemsize), sample_type(frame))
        steps = plane.height // 5, plane.width // 8
        rows[:, : plane.width] = numbers.repeat(steps[0], axis=0).repeat(steps[1], axis=1)
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = matrix, color_range
    frame.color_primaries, frame.color_trc = primaries, transfer
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = frame.width, frame.height, pixel_format
        encoder = video.codec_context
        encoder.colorspace, encoder.color_range = matrix, color_range
        encoder.color_primaries, encoder.color_trc = primaries, transfer
        for index in range(2):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return stored


def patch_middles(frame: av.VideoFrame) -> np.ndarray:
    """Mean number in the middle of each patch: [planes, 5, 8]."""
    found = []
    for plane in frame.planes:
        samples = np.frombuffer(plane, sample_type(frame)).reshape(plane.height, -1)[:, : plane.width]
        patches = samples.reshape(5, plane.height // 5, 8, plane.width // 8)
        rows, columns = patches.shape[1] // 4, patches.shape[3] // 4
        found.append(patches[:, rows:-rows, :, columns:-columns].mean(axis=(1, 3)))
    return np.stack(found)


@pytest.mark.parametrize("name", SET_UPS)
def test_forty_flat_patches_keep_their_numbers(tmp_path, name):
    set_up = SET_UPS[name]
    matrix, color_range, primaries, transfer, pixel_format, output_format = set_up
    stored = write_patches(tmp_path / "in.mkv", set_up)
    alpha = pixel_format.startswith("yuva")
    options = {"codec": "ffv1", "encoder_options": {}} if alpha else {"crf": 0}
    _, notices = upscale(tmp_path / "in.mkv", tmp_path / "out.mkv", pixel_format=output_format, **options)
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
    tags = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
    assert tags == (matrix, color_range, primaries, transfer)
    assert (frame.width, frame.height) == (SIDE * 8 * SCALE, SIDE * 5 * SCALE)
    assert frame.format.name.replace("yuvj", "yuv") == (output_format or pixel_format)
    tolerance = 2 if "10" in pixel_format else 1
    np.testing.assert_allclose(patch_middles(frame), stored, atol=tolerance)
    curve = {16: "PQ", 18: "HLG"}.get(transfer)
    assert [line for line in notices if "curve" in line] == (
        [f"{tmp_path / 'in.mkv'}: {curve} video is upscaled in its own curve; its tags are kept"]
        if curve
        else []
    )

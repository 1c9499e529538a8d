"""More than 8 bits: round the network and back into the output, level by level."""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashvsr_trt.runtime.video.beside import BesideUpscaler, join, split
from flashvsr_trt.runtime.video.color import WHITE
from tests.runtime.nearest_session import upscale

WIDTH, HEIGHT = 512, 32


@given(arrays(np.uint16, (3, 5, 3), elements=st.integers(0, 65535)))
def test_what_is_split_joins_again(deep):
    pixels, remainder = split(deep)
    np.testing.assert_array_equal(join(pixels, remainder), np.minimum(deep, WHITE + 127))
    nearest = np.minimum((deep.astype(int) + 128) // 256, 255)
    np.testing.assert_array_equal(pixels, nearest)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [2, 4])
def test_what_is_beside_is_upscaled_as_the_middle_of_the_frame(scale, dtype):
    level = np.iinfo(dtype).max // 40
    ramp = np.arange(40, dtype=dtype) * dtype(level)
    columns = np.broadcast_to(ramp, (24, 40))
    whole = (24 * scale, 40 * scale)
    alpha = BesideUpscaler(whole, whole).alpha(columns)
    assert (alpha.shape, alpha.dtype) == (whole, dtype)
    centres = (np.arange(40 * scale) + 0.5) / scale - 0.5
    inside = slice(3 * scale, -3 * scale)
    np.testing.assert_allclose(alpha[5, inside], centres[inside] * level, atol=max(1, level / 50))
    part = (16 * scale, 32 * scale)
    cropped = BesideUpscaler(whole, part).alpha(columns)
    np.testing.assert_array_equal(cropped, alpha[4 * scale : -4 * scale, 4 * scale : -4 * scale])


def test_the_remainders_of_three_colours_do_not_mix():
    remainder = np.zeros((8, 8, 3), np.uint8)
    remainder[..., 0], remainder[..., 1], remainder[..., 2] = 7, 128, 250
    upscaled = BesideUpscaler((16, 16), (16, 16)).remainder(remainder)
    assert upscaled.shape == (16, 16, 3)
    assert (upscaled == (7, 128, 250)).all()


def write_gradient(path, pixel_format="yuv420p10le", color_range=1):
    """A gray ramp of one level of 10 bits a pixel, in 512 columns."""
    frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
    for index, plane in enumerate(frame.planes):
        rows = np.full((plane.height, plane.line_size // 2), 512, np.uint16)
        if index == 0:
            rows[:, :WIDTH] = np.arange(200, 200 + WIDTH)
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = 1, color_range
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, pixel_format
        video.codec_context.colorspace, video.codec_context.color_range = 1, color_range
        for index in range(2):
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def luma_row(path, frame_index=1):
    with av.open(str(path)) as container:
        frame = list(container.decode(video=0))[frame_index]
    plane = frame.planes[0]
    deep = frame.format.components[0].bits > 8
    samples = np.frombuffer(plane, np.uint16 if deep else np.uint8).reshape(plane.height, -1)
    return frame.format.name, samples[plane.height // 2, : plane.width].astype(int)


@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize(
    ("target", "options", "written"),
    [
        ("out.mkv", {}, "yuv420p10le"),
        ("out.mkv", {"codec": "libx265", "encoder_options": {"preset": "ultrafast"}}, "yuv420p10le"),
        ("out.mp4", {"codec": "libsvtav1", "encoder_options": {"preset": "12"}}, "yuv420p10le"),
        ("out.webm", {"encoder_options": {"preset": "12"}}, "yuv420p10le"),
        ("out.mov", {"codec": "prores_ks", "encoder_options": {}}, "yuv422p10le"),
    ],
)
def test_a_gradient_of_ten_bits_keeps_its_levels(tmp_path, target, options, written, color_range):
    clip = write_gradient(tmp_path / "in.mkv", color_range=color_range)
    crf = {} if options.get("codec") == "prores_ks" else {"crf": 2}
    upscale(clip, tmp_path / target, **crf, **options)
    pixel_format, row = luma_row(tmp_path / target)
    assert pixel_format == written
    expected = (np.arange(2 * WIDTH) - 0.5) / 2 + 200
    # An 8-bit step is sharp in the nearest neighbour and smooth in the rest: 2.5 levels of 10 bits.
    error = np.abs(row - expected)[8:-8]
    assert np.median(error) <= 1
    assert error.max() <= 4
    assert len(set(row.tolist())) > 450


def test_eight_bits_of_ten_have_a_quarter_of_the_levels_and_a_line_that_says_so(tmp_path):
    clip = write_gradient(tmp_path / "in.mkv")
    _, notices = upscale(clip, tmp_path / "out.mkv", pixel_format="yuv420p", crf=2)
    pixel_format, row = luma_row(tmp_path / "out.mkv")
    assert pixel_format == "yuv420p"
    assert len(set(row.tolist())) < 150
    assert [line for line in notices if "become 8 in libx264 yuv420p" in line]


def test_ten_bits_make_a_png_sequence_of_sixteen(tmp_path):
    clip = write_gradient(tmp_path / "in.mkv")
    upscale(clip, f"{tmp_path}/out/")
    with av.open(str(tmp_path / "out" / "00002.png")) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == "rgb48be"
    row = frame.reformat(format="rgb48le").to_ndarray()[HEIGHT, 8:-8, 1].astype(int)
    expected = ((np.arange(2 * WIDTH) - 0.5) / 2 + 200 - 64) / 876 * 65535
    assert np.abs(row - expected[8:-8]).max() < 300
    assert len(set(row.tolist())) > 450

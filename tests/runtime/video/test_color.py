"""Colours against the equations of ITU-T H.273, on frames whose stored numbers are known."""

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.video.color import ColorTags, encoded_color_tags, from_rgb, read_color_tags, to_rgb
from flashvsr_trt.runtime.video.input import open_input
from tests.clips import make_yuv_clip, probe
from tests.runtime.nearest_session import upscale

WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
WEIGHTS[9] = (0.2627, 0.0593)
LIMITED, FULL = 1, 2
COLORS = [
    (0, 0, 0),
    (255, 255, 255),
    (200, 30, 40),
    (20, 180, 60),
    (10, 40, 220),
    (128, 128, 128),
    (240, 200, 20),
]


def encode_reference(rgb: tuple[int, ...], matrix: int, color_range: int, bits: int = 8) -> np.ndarray:
    """Y', Cb, Cr of one colour as numbers of `bits`, not rounded (H.273 section 8.3)."""
    red_weight, blue_weight = WEIGHTS[matrix]
    red, green, blue = np.array(rgb) / 255
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = np.array([(blue - luma) / (2 * (1 - blue_weight)), (red - luma) / (2 * (1 - red_weight))])
    if color_range == FULL:
        top = 2**bits - 1
        return np.array([luma * top, *(chroma * top + 2 ** (bits - 1))])
    unit = 2 ** (bits - 8)
    return unit * np.array([16 + 219 * luma, *(128 + 224 * chroma)])


def flat(rgb: tuple[int, ...], height: int = 16, width: int = 16) -> np.ndarray:
    return np.broadcast_to(np.array(rgb, np.uint8), (height, width, 3))


@pytest.mark.parametrize("rgb", COLORS)
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_rgb_is_encoded_and_decoded_by_its_matrix_and_range(matrix, color_range, rgb):
    tags = ColorTags(matrix, color_range, 1, 1)
    frame = from_rgb(flat(rgb), tags, "yuv444p", VideoReformatter())
    stored = [bytes(plane)[0] for plane in frame.planes]
    # The scaler goes to full range through 15 bits of limited range: one level of slack.
    assert stored == pytest.approx(encode_reference(rgb, matrix, color_range), abs=1.1)
    assert read_color_tags(frame) == tags
    np.testing.assert_allclose(to_rgb(frame, tags, VideoReformatter())[5, 5], rgb, atol=2)


@pytest.mark.parametrize(
    ("height", "matrix"), [(480, 6), (718, 6), (720, 1), (1080, 1)], ids=lambda value: str(value)
)
def test_an_untagged_video_is_bt709_from_720_lines_on(height, matrix):
    tags = read_color_tags(av.VideoFrame(64, height, "yuv420p"))
    assert (tags.matrix, tags.color_range) == (matrix, LIMITED)


def test_a_matrix_that_cannot_be_converted_is_named():
    frame = av.VideoFrame(64, 64, "yuv420p")
    frame.colorspace = 8
    with pytest.raises(VideoError, match="colour matrix 8"):
        read_color_tags(frame)


def test_rgb_becomes_limited_bt709_in_a_yuv_format_and_stays_rgb_in_an_rgb_one():
    rgb = read_color_tags(av.VideoFrame(64, 64, "rgb24"))
    assert encoded_color_tags(rgb, "yuv420p").matrix == 1
    assert encoded_color_tags(rgb, "yuv420p").color_range == LIMITED
    assert encoded_color_tags(rgb, "rgb24").matrix == 0


@pytest.mark.parametrize(
    ("matrix", "color_range"), [(1, LIMITED), (1, FULL), (6, LIMITED), (5, FULL), (9, LIMITED)]
)
def test_stored_colors_and_tags_survive_a_run(tmp_path, matrix, color_range):
    rgb = (200, 60, 90)
    yuv = encode_reference(rgb, matrix, color_range).round().astype(int)
    clip = make_yuv_clip(
        tmp_path / "in.mp4", yuv, matrix=matrix, color_range=color_range, primaries=1, transfer=13
    )
    with open_input(str(clip)) as video:
        np.testing.assert_allclose(next(iter(video)).pixels[7, 9], rgb, atol=1)
    upscale(clip, tmp_path / "out.mp4", pixel_format="yuv444p", crf=1)
    result = probe(tmp_path / "out.mp4")
    assert result.color == (matrix, color_range, 1, 13)
    assert result.planes == pytest.approx(yuv, abs=2)


@pytest.mark.parametrize("height", [358, 360, 720], ids=["below", "reaches", "above"])
def test_an_untagged_video_keeps_its_colors_when_the_output_crosses_720_lines(tmp_path, height):
    matrix = 1 if height >= 720 else 6
    yuv = encode_reference((20, 200, 40), matrix, LIMITED).round().astype(int)
    clip = make_yuv_clip(tmp_path / "in.mp4", yuv, size=(height, 32), frames=1)
    upscale(clip, tmp_path / "out.mp4", pixel_format="yuv444p", crf=1)
    result = probe(tmp_path / "out.mp4")
    assert result.color[:2] == (matrix, LIMITED)
    assert result.planes == pytest.approx(yuv, abs=2)


def test_the_network_gets_the_nearest_of_eight_bits_and_the_rest_goes_beside_it(tmp_path):
    for level in range(65, 941, 25):
        clip = make_yuv_clip(
            tmp_path / "in.mkv", (level, 512, 512), pixel_format="yuv444p10le", matrix=1, color_range=LIMITED
        )
        notices = []
        with open_input(str(clip), notify=notices.append) as video:
            frame = next(iter(video))
        assert notices == [
            f"{clip}: yuv444p10le: the network takes 8 bits a sample; the rest is upscaled beside it"
        ]
        exact = (level - 64) / 876 * 255
        # 0.51: the nearest level, with the scaler's own 15-bit arithmetic.
        np.testing.assert_allclose(frame.pixels[3, 3], exact, atol=0.51)
        beside = frame.beside.remainder[3, 3].astype(float)
        np.testing.assert_allclose(frame.pixels[3, 3] + (beside - 128) / 256, exact, atol=0.02)


def test_a_gray_ramp_of_ten_bits_keeps_every_level_in_order(tmp_path):
    reformatter = VideoReformatter()
    frame = av.VideoFrame(1024, 16, "gray10le")
    ramp = np.arange(frame.planes[0].line_size // 2, dtype=np.uint16) % 1024
    frame.planes[0].update(np.tile(ramp, 16).tobytes())
    frame.color_range = FULL
    row = to_rgb(frame, read_color_tags(frame), reformatter)[3, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert sorted(set(row)) == list(range(256))

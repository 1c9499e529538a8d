"""PSNR against its closed form, SSIM against a direct evaluation, both on random and on hard frames."""

import math

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flashvsr_trt.quality.metrics import (
    GAUSSIAN_SIDE,
    STRIP_ROWS,
    FrameQuality,
    frame_quality,
    luma,
    mean_squared_error,
    psnr,
    ssim,
)

SIDES = st.integers(GAUSSIAN_SIDE, GAUSSIAN_SIDE + 6)
FRAMES = st.tuples(SIDES, SIDES).flatmap(
    lambda size: st.tuples(arrays(np.uint8, (*size, 3)), arrays(np.uint8, (*size, 3)))
)


def direct_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The paper's formula at one place after the other, with a two-dimensional window."""
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            x, y = (p[row : row + 11, column : column + 11].astype(np.float64) for p in (a, b))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            variance_x, variance_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
            covariance = (window * (x - mean_x) * (y - mean_y)).sum()
            values.append(
                (2 * mean_x * mean_y + c1)
                * (2 * covariance + c2)
                / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
            )
    return float(np.mean(values))


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def near(plane: np.ndarray) -> np.ndarray:
    error = np.random.default_rng(9).normal(0, 8, plane.shape)
    return (plane + error).clip(0, 255).astype(np.uint8)


class TestSsim:
    @pytest.mark.parametrize(
        "size", [(11, 11), (11, 40), (29, 12), (STRIP_ROWS + 9, 13), (STRIP_ROWS + 11, 13)]
    )
    @pytest.mark.parametrize("other", [near, lambda plane: noise(1, *plane.shape), lambda plane: 255 - plane])
    def test_equals_its_direct_evaluation(self, size, other):
        plane = noise(0, *size)
        assert ssim(plane, other(plane)) == pytest.approx(direct_ssim(plane, other(plane)), abs=1e-10)

    @pytest.mark.parametrize("level", [0, 1, 255])
    def test_flat_planes_have_the_closed_form(self, level):
        a, b = np.full((20, 17), level, np.uint8), np.full((20, 17), 100, np.uint8)
        c1 = 6.5025
        assert ssim(a, b) == pytest.approx((2 * level * 100 + c1) / (level**2 + 100**2 + c1), abs=1e-9)

    @settings(max_examples=40, deadline=None)
    @given(FRAMES)
    def test_is_symmetric_bounded_and_the_same_for_mirrored_frames(self, frames):
        a, b = (frame[..., 0] for frame in frames)
        value = ssim(a, b)
        assert -1 <= value <= 1 + 1e-12
        assert ssim(b, a) == pytest.approx(value, abs=1e-12)
        assert ssim(a[::-1, ::-1], b[::-1, ::-1]) == pytest.approx(value, abs=1e-9)
        assert ssim(a.T, b.T) == pytest.approx(value, abs=1e-9)

    @settings(max_examples=20, deadline=None)
    @given(FRAMES)
    def test_is_one_of_equal_planes_alone(self, frames):
        a, b = (frame[..., 0] for frame in frames)
        assert ssim(a, a) == pytest.approx(1, abs=1e-12)
        assert (ssim(a, b) < 1 - 1e-9) == bool((a != b).any())


class TestPsnr:
    @pytest.mark.parametrize("difference", [1, 2, 17, 255])
    def test_a_constant_difference_has_the_closed_form(self, difference):
        a = np.zeros((12, 14, 3), np.uint8)
        quality = frame_quality(a, a + np.uint8(difference))
        assert quality.rgb_psnr == pytest.approx(20 * math.log10(255 / difference))
        # A gray step of 1 is a step of 219/255 in Y.
        assert quality.luma_psnr == pytest.approx(20 * math.log10(255 / (difference * 219 / 255)))

    def test_one_wrong_sample_counts_among_all(self):
        a = np.zeros((11, 20, 3), np.uint8)
        b = a.copy()
        b[3, 4, 2] = 10
        assert frame_quality(a, b).rgb_psnr == pytest.approx(10 * math.log10(255**2 * a.size / 100))

    def test_the_order_does_not_matter_to_unsigned_samples(self):
        a, b = np.zeros((2, 2), np.uint8), np.full((2, 2), 200, np.uint8)
        assert mean_squared_error(a, b) == mean_squared_error(b, a) == 40000

    def test_equal_planes_have_an_infinite_one(self):
        assert psnr(mean_squared_error(noise(0, 5, 5), noise(0, 5, 5))) == math.inf


class TestFrameQuality:
    @settings(max_examples=10, deadline=None)
    @given(FRAMES)
    def test_a_frame_equals_itself(self, frames):
        quality = frame_quality(frames[0], frames[0])
        one = pytest.approx(1, abs=1e-12)
        assert quality == FrameQuality(math.inf, one, math.inf, one)

    def test_rgb_ssim_is_the_mean_of_its_channels(self):
        a, b = (np.stack([noise(seed + n, 15, 16) for n in range(3)], axis=-1) for seed in (0, 3))
        channels = [direct_ssim(a[..., n], b[..., n]) for n in range(3)]
        assert frame_quality(a, b).rgb_ssim == pytest.approx(np.mean(channels), abs=1e-10)


class TestLuma:
    @pytest.mark.parametrize(
        ("color", "expected"),
        [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 0, 255), 40.966)],
    )
    def test_is_studio_range_bt601(self, color, expected):
        assert luma(np.full((1, 1, 3), color, np.uint8))[0, 0] == pytest.approx(expected, abs=1e-3)

    def test_is_what_ffmpeg_converts_to(self):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv444p", dst_colorspace="ITU601", dst_color_range="MPEG"
        )
        assert np.abs(luma(pixels) - frame.to_ndarray()[0]).max() < 1.6

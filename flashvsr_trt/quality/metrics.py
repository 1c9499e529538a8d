"""PSNR and SSIM of one frame against another, on luma and on RGB.

Luma is the Y that super-resolution papers measure: BT.601 in studio range, 16 to 235, not rounded (MATLAB's
rgb2ycbcr). The peak is 255 for Y too, as in those papers and in FFmpeg's psnr filter.
"""

from dataclasses import dataclass

import numpy as np

PEAK = 255.0

LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966]) / PEAK
LUMA_OFFSET = 16.0

GAUSSIAN_SIDE = 11
"""Pixels each way of SSIM's window; it stays inside the frame, so smaller frames have no SSIM."""

GAUSSIAN_SIGMA = 1.5

LUMINANCE_CONSTANT = (0.01 * PEAK) ** 2
"""C1 of the paper, with its K1."""

CONTRAST_CONSTANT = (0.03 * PEAK) ** 2
"""C2 of the paper, with its K2."""

STRIP_ROWS = 64
"""Rows filtered at a time: what SSIM needs of them stays in the processor's cache."""


@dataclass(frozen=True)
class FrameQuality:
    """One frame against another: PSNR in dB, infinite for equal pictures, and SSIM from -1 to 1.

    RGB has the PSNR of all samples together and the mean SSIM of R, G and B.
    """

    luma_psnr: float
    luma_ssim: float
    rgb_psnr: float
    rgb_ssim: float


def frame_quality(a: np.ndarray, b: np.ndarray) -> FrameQuality:
    """Compares two frames, uint8 RGB [H, W, 3], both sides at least 11."""
    luma_a, luma_b = luma(a), luma(b)
    channels = [(a[..., channel], b[..., channel]) for channel in range(3)]
    rgb_error = float(np.mean([mean_squared_error(*pair) for pair in channels]))
    return FrameQuality(
        luma_psnr=psnr(mean_squared_error(luma_a, luma_b)),
        luma_ssim=ssim(luma_a, luma_b),
        rgb_psnr=psnr(rgb_error),
        rgb_ssim=float(np.mean([ssim(*pair) for pair in channels])),
    )


def luma(pixels: np.ndarray) -> np.ndarray:
    """Y, float64 [H, W] from 16 to 235, of a frame, uint8 RGB [H, W, 3]."""
    return pixels @ LUMA_WEIGHTS + LUMA_OFFSET


def mean_squared_error(a: np.ndarray, b: np.ndarray) -> float:
    """Of two planes [H, W] with values from 0 to 255, any dtype."""
    return float(np.square(np.subtract(a, b, dtype=np.float64)).mean())


def psnr(mean_squared_error: float) -> float:
    """In dB, for a peak of 255; infinite where there is no error."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(PEAK**2 / np.float64(mean_squared_error)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of two planes [H, W] with values from 0 to 255, any dtype.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", 2004, section III-C; without the downsampling that its authors' later script added.
    """
    margin = GAUSSIAN_SIDE - 1
    rows, columns = a.shape[0] - margin, a.shape[1] - margin
    total = 0.0
    for top in range(0, rows, STRIP_ROWS):
        strip = slice(top, top + STRIP_ROWS + margin)
        total += _similarity(a[strip].astype(np.float64), b[strip].astype(np.float64)).sum()
    return float(total / (rows * columns))


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """SSIM at each place of the window; transposed, which a sum does not see."""
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    product, energy = mean_a * mean_b, mean_a**2 + mean_b**2
    covariance = _local_mean(a * b) - product
    variances = _local_mean(a**2 + b**2) - energy
    luminance = (2 * product + LUMINANCE_CONSTANT) / (energy + LUMINANCE_CONSTANT)
    return luminance * (2 * covariance + CONTRAST_CONSTANT) / (variances + CONTRAST_CONSTANT)


def gaussian() -> np.ndarray:
    """Weights of one row of SSIM's window, float64 [11]; their sum is 1."""
    offsets = np.arange(GAUSSIAN_SIDE) - GAUSSIAN_SIDE // 2
    weights = np.exp(-(offsets**2) / (2 * GAUSSIAN_SIGMA**2))
    return weights / weights.sum()


_WEIGHTS = gaussian()


def _local_mean(plane: np.ndarray) -> np.ndarray:
    """Gaussian means [W - 10, H - 10] of a plane [H, W]: rows, then, transposed, columns."""
    return _mean_along_rows(_mean_along_rows(plane).T)


def _mean_along_rows(plane: np.ndarray) -> np.ndarray:
    """[H, W] -> [H, W - 10]. One long row is filtered fastest; what straddles two rows is cut off."""
    margin = GAUSSIAN_SIDE - 1
    filtered = np.convolve(plane.ravel(), _WEIGHTS)[margin:]
    return filtered.reshape(plane.shape)[:, : plane.shape[1] - margin]

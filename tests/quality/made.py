"""Comparisons made of numbers, without any video."""

from collections.abc import Sequence

from flashvsr_trt.quality.compare import ComparedFrame, Comparison
from flashvsr_trt.quality.metrics import FrameQuality

RATE = 24


def compared_frame(index: int, psnr: float, ssim: float = 0.9) -> ComparedFrame:
    """A frame with this quality of luma, and of RGB a little below."""
    quality = FrameQuality(psnr, ssim, psnr - 1, ssim - 0.1)
    return ComparedFrame(index, index / RATE, quality)


def comparison(psnr: Sequence[float], names: tuple[str, str] = ("a.mp4", "b.mp4")) -> Comparison:
    """A comparison with these values of luma PSNR, of frames of 64x48."""
    frames = tuple(compared_frame(index, value) for index, value in enumerate(psnr))
    return Comparison(names, 64, 48, (len(frames), len(frames)), frames)

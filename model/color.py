"""Colour correction of decoded frames against the upscaled input (official `ColorCorrectorWavelet`)."""

import torch
import torch.nn.functional as F

from flashvsr_trt.config.signatures import COLOR_FIXES
from flashvsr_trt.model.extent import WHOLE_FRAME, WholeFrame

WAVELET_LEVELS = 5


def adain(frames: torch.Tensor, reference: torch.Tensor, extent: WholeFrame) -> torch.Tensor:
    """Give each frame and channel the mean and deviation of the reference. [T, 3, H, W] float32."""
    mean, deviation = extent.statistics(frames)
    reference_mean, reference_deviation = extent.statistics(reference)
    return (frames - mean) / deviation * reference_deviation + reference_mean


def wavelet(frames: torch.Tensor, reference: torch.Tensor, extent: WholeFrame) -> torch.Tensor:
    """Swap the low frequencies of the frames for those of the reference. [T, 3, H, W] float32."""
    return frames - _low_frequencies(frames, extent) + _low_frequencies(reference, extent)


def _low_frequencies(x: torch.Tensor, extent: WholeFrame) -> torch.Tensor:
    # 1, 2, 1 made on the device: a copy from the host could not be captured in a CUDA graph.
    binomial = (2 - (torch.arange(3, dtype=x.dtype, device=x.device) - 1).abs()) / 4
    kernel = torch.outer(binomial, binomial).expand(x.shape[1], 1, 3, 3)
    for level in range(WAVELET_LEVELS):
        dilation = 2**level
        x = F.conv2d(extent.replicate(x, dilation), kernel, dilation=dilation, groups=x.shape[1])
    return x


def fix_color(
    frames: torch.Tensor, reference: torch.Tensor, method: str, extent: WholeFrame = WHOLE_FRAME
) -> torch.Tensor:
    """Correct and clamp to [-1, 1]. [T, 3, H, W] float32, both in [-1, 1].

    Raises:
        ValueError: `method` is not one of COLOR_FIXES.
    """
    if method == "adain":
        frames = adain(frames, reference, extent)
    elif method == "wavelet":
        frames = wavelet(frames, reference, extent)
    elif method != "none":
        raise ValueError(f"colour fix '{method}' is not one of {COLOR_FIXES}")
    return frames.clamp(-1, 1)

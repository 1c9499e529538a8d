"""Colour correction of decoded frames against the upscaled input (official `ColorCorrectorWavelet`)."""

import torch
import torch.nn.functional as F

from flashvsr_trt.config.pictures import WAVELET_LEVELS
from flashvsr_trt.config.signatures import COLOR_FIXES
from flashvsr_trt.kernels import finish_frames as finish_frames_operator
from flashvsr_trt.model.communicator import ONE_PROCESS, Communicator, replicate, statistics


def adain(frames: torch.Tensor, reference: torch.Tensor, communicator: Communicator) -> torch.Tensor:
    """Give each frame and channel the mean and deviation of the reference. [T, 3, H, W] float32."""
    mean, deviation = statistics(communicator, frames)
    reference_mean, reference_deviation = statistics(communicator, reference)
    return (frames - mean) / deviation * reference_deviation + reference_mean


def wavelet(frames: torch.Tensor, reference: torch.Tensor, communicator: Communicator) -> torch.Tensor:
    """Swap the low frequencies of the frames for those of the reference. [T, 3, H, W] float32."""
    return frames - _low_frequencies(frames, communicator) + _low_frequencies(reference, communicator)


def _low_frequencies(x: torch.Tensor, communicator: Communicator) -> torch.Tensor:
    # 1, 2, 1 made on the device: a copy from the host could not be captured in a CUDA graph.
    binomial = (2 - (torch.arange(3, dtype=x.dtype, device=x.device) - 1).abs()) / 4
    kernel = torch.outer(binomial, binomial).expand(x.shape[1], 1, 3, 3)
    for level in range(WAVELET_LEVELS):
        dilation = 2**level
        x = F.conv2d(replicate(communicator, x, dilation), kernel, dilation=dilation, groups=x.shape[1])
    return x


def fix_color(
    frames: torch.Tensor, reference: torch.Tensor, method: str, communicator: Communicator = ONE_PROCESS
) -> torch.Tensor:
    """Correct and clamp to [-1, 1]. [T, 3, H, W] float32, both in [-1, 1].

    Raises:
        ValueError: `method` is not one of COLOR_FIXES.
    """
    if method == "adain":
        frames = adain(frames, reference, communicator)
    elif method == "wavelet":
        frames = wavelet(frames, reference, communicator)
    elif method != "none":
        raise ValueError(f"colour fix '{method}' is not one of {COLOR_FIXES}")
    return frames.clamp(-1, 1)


def finish_frames(
    frames: torch.Tensor, reference: torch.Tensor, method: str, communicator: Communicator = ONE_PROCESS
) -> torch.Tensor:
    """The decoder's [T, 3, H, W] in about [0, 1] -> corrected frames as bytes [T, H, W, 3].

    AdaIN of whole frames is one operator. Raises what `fix_color` raises.
    """
    if method == "adain" and communicator.size == 1 and not torch.compiler.is_compiling():
        return finish_frames_operator.finish_frames(frames.contiguous(), reference.contiguous())
    return quantise(fix_color(frames.float() * 2 - 1, reference, method, communicator))


def quantise(frames: torch.Tensor) -> torch.Tensor:
    """[T, 3, H, W] in [-1, 1] -> [T, H, W, 3] uint8, truncated as the official script does."""
    levels = ((frames + 1) * 127.5).clamp(0, 255)
    # Engines give bytes only from a cast that comes last.
    return levels.permute(0, 2, 3, 1).to(torch.uint8)

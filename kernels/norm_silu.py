"""What follows a causal convolution: its bias, the RMS norm of each pixel's channels, SiLU.

The PyTorch reference here is the specification (official `RMS_norm`). The kernel works in place, with
one read and one write, where torch takes three.
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import architecture_of, kernel_setting
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting, frame_by_frame

EPSILON = 1e-27
"""Keeps the norm of a zero vector from being a division by zero, and changes no other."""


def norm_silu_reference(x: torch.Tensor, bias: torch.Tensor | None, gamma: torch.Tensor) -> torch.Tensor:
    """silu(n / rms(n) * gamma) of n = x + bias, over the channels.

    Args:
        x: [T, C, h, w].
        bias: [C], or None where x has it already.
        gamma: [C].

    Returns:
        Like x. Sums, norm and SiLU in float32.
    """
    biased = x.float() if bias is None else x.float() + bias.float().view(-1, 1, 1)
    norm = torch.linalg.vector_norm(biased, dim=1, keepdim=True)
    scale = (norm.square() / x.shape[1] + EPSILON).rsqrt()
    return F.silu(biased * scale * gamma.float().view(-1, 1, 1)).to(x.dtype)


def conv_norm_silu(
    stacked: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gamma: torch.Tensor
) -> torch.Tensor:
    """A 3x3 convolution without padding, and `norm_silu_reference` of its result.

    Args:
        stacked: [T, in, h+2, w+2] in channels-last memory.
        weight: [out, in, 3, 3] in channels-last memory.
        bias, gamma: [out].

    Returns:
        [T, out, h, w] in channels-last memory.
    """
    setting = kernel_setting("norm_silu", stacked)
    if setting is None:
        # oneDNN's convolution starts its sums at the bias: it costs no pass.
        return norm_silu_reference(F.conv2d(stacked, weight, bias), None, gamma)
    one_by_one = frame_by_frame(architecture_of(stacked.device), stacked.shape)
    made = (convolve_by_frame if one_by_one else F.conv2d)(stacked, weight)
    return norm_silu(made, bias, gamma, setting)


def convolve_by_frame(stacked: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """F.conv2d of each frame alone: cuDNN takes another kernel, for some sizes one twice as fast."""
    frames, channels, height, width = len(stacked), len(weight), stacked.shape[2] - 2, stacked.shape[3] - 2
    size = (frames, channels, height, width)
    made = torch.empty(size, dtype=stacked.dtype, device=stacked.device, memory_format=torch.channels_last)
    for one, place in zip(stacked.split(1), made.split(1), strict=True):
        place.copy_(F.conv2d(one, weight))
    return made


@triton.jit
def norm_silu_kernel(
    x,
    bias,
    gamma,
    pixels,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS: tl.constexpr,
    EPSILON: tl.constexpr,
):
    """PIXELS pixels, all of their WIDTH channels."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, PADDED)
    exists = channel < WIDTH
    inside = (pixel < pixels)[:, None] & exists[None, :]
    place = pixel.to(tl.int64)[:, None] * WIDTH + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    scale = tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + EPSILON)
    factor = tl.load(gamma + channel, mask=exists, other=0.0).to(tl.float32)
    value = value * scale[:, None] * factor[None, :]
    value *= tl.sigmoid(value)
    tl.store(x + place, value.to(x.dtype.element_ty), mask=inside)


def norm_silu(
    x: torch.Tensor, bias: torch.Tensor, gamma: torch.Tensor, setting: Setting | None = None
) -> torch.Tensor:
    """`norm_silu_reference`, by the kernel where there is a GPU or a `setting` is given: into x itself.

    Raises:
        ValueError: the kernel is to read x, which is not in channels-last memory.
    """
    setting = setting or kernel_setting("norm_silu", x)
    if setting is None:
        return norm_silu_reference(x, bias, gamma)
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"x {tuple(x.shape)} must have its channels innermost: strides {x.stride()}")
    channels = x.shape[1]
    pixels = x.numel() // channels
    padded = triton.next_power_of_2(channels)
    # Launch sizes are per value, so that few and many channels fill a program alike.
    size = max(1, setting.constants["VALUES"] // padded)
    norm_silu_kernel[(triton.cdiv(pixels, size),)](
        x,
        bias,
        gamma,
        pixels,
        WIDTH=channels,
        PADDED=padded,
        PIXELS=size,
        EPSILON=EPSILON,
        num_warps=setting.num_warps,
    )
    return x

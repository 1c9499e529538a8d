"""The kernel form of `norm_silu_reference`, in place: one read and one write, torch takes three."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.norm_silu import EPSILON
from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def norm_silu(
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


def launch_norm_silu(
    x: torch.Tensor, bias: torch.Tensor, gamma: torch.Tensor, setting: Setting
) -> torch.Tensor:
    """`norm_silu_reference` in one launch, into x itself, which is returned.

    Raises:
        ValueError: x is not contiguous.
    """
    if not x.is_contiguous():
        raise ValueError(f"x {tuple(x.shape)} must have its channels innermost: strides {x.stride()}")
    channels = x.shape[-1]
    pixels = x.numel() // channels
    padded = triton.next_power_of_2(channels)
    # Launch sizes are per value, so that few and many channels fill a program alike.
    size = max(1, setting.constants["VALUES"] // padded)
    norm_silu[(triton.cdiv(pixels, size),)](
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

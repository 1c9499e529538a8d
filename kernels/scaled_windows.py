"""Keys and values in e4m3 with a scale for each window and head: how they are made, and made wide again.

The PyTorch references here are the specification. Scales are powers of two: what is rounded is rounded once.
The kernels work on e4m3's bits, for sm_80 and sm_86 have no conversion from or to it.
"""

import torch

from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.catalogue import BLOCK
from flashvsr_trt.kernels.fp8 import LARGEST
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting

LEAST_EXPONENT = -14
"""Of a scale, so that it is no subnormal number in float16 either."""


def by_window(x: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, head_dim] in window order -> [W, 128, heads, head_dim], as scales [W, heads]."""
    return x.unflatten(0, (scales.shape[0], -1))


def widen_windows_reference(kept: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """kept [tokens, heads, head_dim] e4m3, times scales [W, heads] float32 -> out, in its dtype."""
    out.copy_(kept)
    by_window(out, scales).mul_(scales[:, None, :, None])


def quantise_windows_reference(x: torch.Tensor, kept: torch.Tensor, scales: torch.Tensor) -> None:
    """x [tokens, heads, head_dim] -> kept, e4m3 of that shape, and scales [W, heads] float32.

    A scale is the least power of two from 2**LEAST_EXPONENT on by which all of the window's head fits e4m3.
    """
    windows = by_window(x, scales)
    largest = torch.linalg.vector_norm(windows, torch.inf, dim=(1, 3)).float()
    scales.copy_((largest / LARGEST).clamp(min=2.0**LEAST_EXPONENT).log2().ceil().exp2())
    kept.copy_((windows / scales.to(x.dtype)[:, None, :, None]).view(kept.shape))


@triton.jit
def float_of_e4m3(bits):
    """int8 of e4m3's bits -> float32, exactly; NaN's become 480. No subnormal float32 is on the way."""
    magnitude = bits.to(tl.int32) & 0x7F
    normal = ((magnitude + (120 << 3)) << 20).to(tl.float32, bitcast=True)
    number = tl.where(magnitude < 8, magnitude.to(tl.float32) * 0.001953125, normal)
    return tl.where(bits < 0, -number, number)


@triton.jit
def e4m3_of_float(number):
    """float32 from -448 to 448 -> int8 of the nearest e4m3's bits, of the even one where two are as near."""
    size = tl.abs(number)
    bits = size.to(tl.int32, bitcast=True)
    normal = (bits + 0x7FFFF + ((bits >> 20) & 1) - (120 << 23)) >> 20
    # Multiples of 2**-9: the sum has no bits below these.
    subnormal = (size * 512.0 + 8388608.0).to(tl.int32, bitcast=True) & 0xF
    nearest = tl.where(size < 0.015625, subnormal, normal)
    return (nearest | ((number < 0).to(tl.int32) << 7)).to(tl.int8)


@triton.jit
def widen_windows_kernel(kept, scales, out, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    """One window of one head."""
    window = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    token = (window * BLOCK + tl.arange(0, BLOCK)) * heads + head
    place = token[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    number = float_of_e4m3(tl.load(kept + place)) * tl.load(scales + window * heads + head)
    tl.store(out + place, number.to(out.dtype.element_ty))


@triton.jit
def quantise_windows_kernel(
    x,
    kept,
    scales,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    LEAST_EXPONENT: tl.constexpr,
):
    """One window of one head. What is no number makes its scale infinite."""
    window = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    token = (window * BLOCK + tl.arange(0, BLOCK)) * heads + head
    place = token[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    number = tl.load(x + place).to(tl.float32)
    size = tl.where(number == number, tl.abs(number), float("inf"))
    # Floats from 0 on order as their bits do.
    largest = tl.maximum(tl.max(size.to(tl.int32, bitcast=True)), 0)
    # 448 is 1.75 * 2**8: a larger mantissa wants the next power. Exponents' bias is 127, infinity's is 255.
    exponent = tl.maximum(((largest + 0x1FFFFF) >> 23) - 8, LEAST_EXPONENT + 127)
    exponent = tl.where(largest < 0x7F800000, exponent, 255)
    inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    tl.store(scales + window * heads + head, (exponent << 23).to(tl.float32, bitcast=True))
    tl.store(kept + place, e4m3_of_float(number * inverse))


def _grid(wide: torch.Tensor, kept: torch.Tensor, scales: torch.Tensor) -> tuple[int, int]:
    """Windows and heads. Raises ValueError where shapes differ, or memory is not contiguous."""
    tokens, heads, _ = wide.shape
    windows = tokens // BLOCK
    if kept.shape != wide.shape or scales.shape != (windows, heads) or tokens % BLOCK:
        raise ValueError(
            f"{tuple(wide.shape)} and {tuple(kept.shape)} must be whole windows of {BLOCK} tokens, and "
            f"{tuple(scales.shape)} a scale for each and head"
        )
    if not (wide.is_contiguous() and kept.is_contiguous() and scales.is_contiguous()):
        raise ValueError("windows and their scales must be contiguous")
    return windows, heads


def widen_windows(
    kept: torch.Tensor, scales: torch.Tensor, out: torch.Tensor, setting: Setting | None = None
) -> None:
    """`widen_windows_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises ValueError as `_grid`.
    """
    setting = setting or kernel_setting("widen_windows", kept)
    if setting is None:
        return widen_windows_reference(kept, scales, out)
    grid, size = _grid(out, kept, scales), kept.shape[-1]
    widen_windows_kernel[grid](
        kept.view(torch.int8), scales, out, HEAD_DIM=size, BLOCK=BLOCK, num_warps=setting.num_warps
    )


def quantise_windows(
    x: torch.Tensor, kept: torch.Tensor, scales: torch.Tensor, setting: Setting | None = None
) -> None:
    """`quantise_windows_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises ValueError as `_grid`.
    """
    setting = setting or kernel_setting("quantise_windows", x)
    if setting is None:
        return quantise_windows_reference(x, kept, scales)
    quantise_windows_kernel[_grid(x, kept, scales)](
        x,
        kept.view(torch.int8),
        scales,
        HEAD_DIM=x.shape[-1],
        BLOCK=BLOCK,
        LEAST_EXPONENT=LEAST_EXPONENT,
        num_warps=setting.num_warps,
    )

"""The kernel form of `add_norm_reference`: one read of each operand, one write of each result."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.fp8 import LARGEST, SMALLEST, Quantised, e4m3_rows, empty_rows, rounded
from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def add_norm(
    x,
    branch,
    gate,
    weight,
    bias,
    total,
    normed,
    scales,
    tokens,
    eps,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_GATE: tl.constexpr,
    QUANTISED: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """TOKENS tokens per program. `scales` are written where QUANTISED."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, PADDED)
    exists = channel < WIDTH
    inside = (token < tokens)[:, None] & exists[None, :]
    place = token.to(tl.int64)[:, None] * WIDTH + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    added = tl.load(branch + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_GATE:
        added *= tl.load(gate + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    value = (value + added).to(total.dtype.element_ty)
    tl.store(total + place, value, mask=inside)
    value = value.to(tl.float32)
    mean = tl.sum(value, axis=1) / WIDTH
    centred = tl.where(exists[None, :], value - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)
    factor = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    result = centred * scale[:, None] * factor[None, :] + shift[None, :]
    if QUANTISED:
        result, scale = e4m3_rows(result, LARGEST, SMALLEST)
        tl.store(scales + token, scale, mask=token < tokens)
    tl.store(normed + place, result.to(normed.dtype.element_ty), mask=inside)


def launch_add_norm(
    x: torch.Tensor,
    branch: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    quantised: bool,
    setting: Setting,
) -> tuple[torch.Tensor, torch.Tensor | Quantised]:
    """`add_norm_reference` as one launch: arguments and results are its.

    Raises:
        ValueError: x or branch is not contiguous.
    """
    tokens, width = x.shape
    if not (x.is_contiguous() and branch.is_contiguous()):
        raise ValueError("x and branch must be contiguous")
    total = torch.empty_like(x)
    values, scales = empty_rows(x) if quantised else (torch.empty_like(x), None)
    add_norm[(triton.cdiv(tokens, setting.constants["TOKENS"]),)](
        x,
        branch,
        gate,
        weight,
        bias,
        total,
        values,
        scales,
        tokens,
        eps,
        WIDTH=width,
        PADDED=triton.next_power_of_2(width),
        HAS_GATE=gate is not None,
        QUANTISED=quantised,
        LARGEST=LARGEST,
        SMALLEST=SMALLEST,
        **setting.constants,
        num_warps=setting.num_warps,
    )
    return total, Quantised(rounded(values), scales) if quantised else values

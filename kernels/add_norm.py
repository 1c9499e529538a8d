"""The step between two branches of a DiT block: gated residual sum, then LayerNorm with scale and shift.

`add_norm_reference` is the specification (official `DiTBlock.forward` and `modulate`). The kernel reads each
operand once and writes each result once.
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.fp8 import (
    LARGEST,
    SMALLEST,
    Quantised,
    e4m3_rows,
    empty_rows,
    quantise_rows_reference,
    rounded,
)
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting


def add_norm_reference(
    x: torch.Tensor,
    branch: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    quantised: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | Quantised]:
    """total = x + gate * branch; normed = LayerNorm(total) * weight + bias.

    Args:
        x: [tokens, dim].
        branch: [tokens, dim].
        gate: [dim], or None for 1.
        weight, bias: [dim]; for modulation weight is 1 + scale and bias is shift.
        quantised: whether the norm is wanted as the operand of an FP8 product.

    Returns:
        total and normed, like x. Sums and norm in float32; the norm is that of `total` as rounded.
    """
    gated = branch.float() if gate is None else gate.float() * branch.float()
    total = (x.float() + gated).to(x.dtype)
    normed = F.layer_norm(total.float(), total.shape[-1:], weight.float(), bias.float(), eps)
    return total, quantise_rows_reference(normed) if quantised else normed.to(x.dtype)


@triton.jit
def add_norm_kernel(
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


def add_norm(
    x: torch.Tensor,
    branch: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    quantised: bool = False,
    setting: Setting | None = None,
) -> tuple[torch.Tensor, torch.Tensor | Quantised]:
    """`add_norm_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernel is to read x or branch, which is not contiguous.
    """
    setting = setting or kernel_setting("add_norm", x)
    if setting is None:
        return add_norm_reference(x, branch, gate, weight, bias, eps, quantised)
    tokens, width = x.shape
    if not (x.is_contiguous() and branch.is_contiguous()):
        raise ValueError("x and branch must be contiguous")
    total = torch.empty_like(x)
    values, scales = empty_rows(x) if quantised else (torch.empty_like(x), None)
    add_norm_kernel[(triton.cdiv(tokens, setting.constants["TOKENS"]),)](
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
    return total, values if scales is None else Quantised(rounded(values), scales)

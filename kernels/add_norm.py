"""The step between two branches of a DiT block: gated residual sum, then LayerNorm with scale and shift.

`add_norm_reference` is the specification (official `DiTBlock.forward` and `modulate`).
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.fp8 import Quantised, quantise_rows_reference


def add_norm(
    x: torch.Tensor,
    branch: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    quantised: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | Quantised]:
    """`add_norm_reference`, by the kernel on a GPU."""
    setting = kernel_setting("add_norm", x)
    if setting is None:
        return add_norm_reference(x, branch, gate, weight, bias, eps, quantised)
    from flashvsr_trt.kernels.add_norm_triton import launch_add_norm

    return launch_add_norm(x, branch, gate, weight, bias, eps, quantised, setting)


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

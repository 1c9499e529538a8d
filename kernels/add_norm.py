"""The step between two branches of a DiT block: gated residual sum, then LayerNorm with scale and shift.

The PyTorch twin here is the specification (official `DiTBlock.forward` and `modulate`).
"""

import torch
import torch.nn.functional as F


def add_norm_reference(
    x: torch.Tensor,
    branch: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """total = x + gate * branch; normed = LayerNorm(total) * weight + bias.

    Args:
        x: [tokens, dim].
        branch: [tokens, dim].
        gate: [dim], or None for 1.
        weight, bias: [dim]; for modulation weight is 1 + scale and bias is shift.

    Returns:
        total and normed, like x. Sums and norm in float32; the norm is that of `total` as rounded.
    """
    gated = branch.float() if gate is None else gate.float() * branch.float()
    total = (x.float() + gated).to(x.dtype)
    normed = F.layer_norm(total.float(), total.shape[-1:], eps=eps) * weight.float() + bias.float()
    return total, normed.to(x.dtype)

"""What follows a causal convolution: its bias, the RMS norm of each pixel's channels, SiLU.

The PyTorch twin here is the specification (`model.projector.ChannelNorm`, with channels innermost).
"""

import torch
import torch.nn.functional as F

EPSILON = 1e-27
"""Keeps the norm of a zero vector from being a division by zero, and changes no other."""


def norm_silu_reference(x: torch.Tensor, bias: torch.Tensor | None, gamma: torch.Tensor) -> torch.Tensor:
    """silu(n / rms(n) * gamma) of n = x + bias, over the last axis.

    Args:
        x: [..., C].
        bias: [C], or None where x has it already.
        gamma: [C].

    Returns:
        Like x. Sums, norm and SiLU in float32.
    """
    biased = x.float() if bias is None else x.float() + bias.float()
    normed = F.rms_norm(biased, biased.shape[-1:], gamma.float(), EPSILON)
    return F.silu(normed, inplace=True).to(x.dtype)

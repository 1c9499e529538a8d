"""What the DiT takes in FP8: linear layers, and the scales that attention's operands are kept with."""

import math

import torch
from torch import nn

from flashvsr_trt.kernels.block_sparse_attention_fp8 import AttentionScales
from flashvsr_trt.kernels.fp8 import LARGEST, Quantised, fp8_product, quantise_rows, quantise_rows_reference

ROUNDING = 1.15
"""Of an operand's and a weight's values: each may be a sixteenth larger than what a bound was taken of."""


class Fp8Linear(nn.Module):
    """`nn.Linear` with its weight in e4m3, a scale a channel, rounded once and where it is loaded."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = quantise_rows_reference(linear.weight.detach())
        self.register_buffer("weight", weight.values)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: torch.Tensor | Quantised, out: torch.Tensor | None = None) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out], in `out` where it is given; what is not quantised yet is then."""
        x = x if isinstance(x, Quantised) else quantise_rows(x)
        return fp8_product(x, Quantised(self.weight, self.scale), self.bias, out)


def attention_scales(
    q_weight: torch.Tensor, k_weight: torch.Tensor, v: nn.Linear, scale: torch.Tensor, shift: torch.Tensor
) -> AttentionScales:
    """Such scales that no query, key or value is beyond e4m3's range, whatever the tokens are.

    After its RMS norm a row of n values has the length sqrt(n), before the norm's weight [n]; RoPE changes no
    pair's length. The operand of v is a LayerNorm of that length, times `scale` plus `shift` [n]. Values are
    kept less their mean, which is within the same bound: the two are no farther apart than twice that.
    """
    length = math.sqrt(len(q_weight))
    weight = v.weight.detach().float()
    reach = (
        length * (weight * scale.float()).norm(dim=1)
        + (weight @ shift.float() + v.bias.detach().float()).abs()
    )
    bounds = (length * q_weight.abs().max(), length * k_weight.abs().max(), 2 * reach.max())
    return AttentionScales(*(ROUNDING * bound.item() / LARGEST for bound in bounds), v.weight.dtype)

"""What the DiT takes in FP8: linear layers, and the scales that attention's operands are kept with."""

import math

import torch
from torch import nn

from flashvsr_trt.kernels.block_sparse_attention_fp8 import AttentionScales
from flashvsr_trt.kernels.fp8 import (
    LARGEST,
    SMALLEST,
    Quantised,
    fp8_product,
    quantise_rows,
    quantise_rows_reference,
)
from flashvsr_trt.kernels.fp8_products import gelu_product

ROUNDING = 1.15
"""Of an operand's and a weight's values: each may be a sixteenth larger than what a bound was taken of."""


class Fp8Linear(nn.Module):
    """`nn.Linear` with its weight in e4m3, a scale a channel, rounded once and where it is loaded.

    What was `subtracted` [in] from every token of its operand is in its bias, and so is not rounded.
    """

    def __init__(self, linear: nn.Linear, subtracted: torch.Tensor | None = None) -> None:
        super().__init__()
        weight, bias = quantise_rows_reference(linear.weight.detach()), linear.bias.detach()
        if subtracted is not None:
            bias = (bias.float() + linear.weight.detach().float() @ subtracted).to(bias.dtype)
        self.register_buffer("weight", weight.values)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor | Quantised, out: torch.Tensor | None = None) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out], in `out` where it is given; what is not quantised yet is then."""
        x = x if isinstance(x, Quantised) else quantise_rows(x)
        return fp8_product(x, Quantised(self.weight, self.scale), self.bias, out)


class Fp8LinearGelu(Fp8Linear):
    """The feed-forward's first layer: `gelu` makes the operand of the second."""

    def __init__(self, linear: nn.Linear, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """`scale` and `shift` [in] are those of the LayerNorm that its operand is."""
        super().__init__(linear)
        # GELU makes nothing larger than it is.
        self.inner_scale = scale_within(reach(linear, scale, shift))

    def gelu(self, x: Quantised) -> Quantised:
        """GELU of the layer's result, [tokens, in] -> [tokens, out]."""
        return gelu_product(x, Quantised(self.weight, self.scale), self.bias, self.inner_scale)


def scale_within(largest: float) -> float:
    """Of values up to `largest`; what a layer of zeros makes has a scale as well."""
    return ROUNDING * max(largest, SMALLEST) / LARGEST


def reach(linear: nn.Linear, scale: torch.Tensor, shift: torch.Tensor) -> float:
    """The largest value that the layer can make of a LayerNorm times `scale` plus `shift` [in].

    A LayerNorm of n values has at most the length sqrt(n).
    """
    weight, bias = linear.weight.detach().float(), linear.bias.detach().float()
    length = math.sqrt(len(scale)) * (weight * scale.float()).norm(dim=1)
    return float((length + (weight @ shift.float() + bias).abs()).max())


def norm_scale(weight: torch.Tensor) -> float:
    """Such a scale that no value is beyond e4m3's range after an RMS norm of n values times `weight` [n].

    The norm has the length sqrt(n); RoPE changes no pair's length.
    """
    return scale_within(math.sqrt(len(weight)) * float(weight.abs().max()))


def attention_scales(
    q_weight: torch.Tensor, k_weight: torch.Tensor, v: nn.Linear, scale: torch.Tensor, shift: torch.Tensor
) -> AttentionScales:
    """Such scales that no query, key or value is beyond e4m3's range, whatever the tokens are.

    Queries and keys have RMS norms of these weights; the operand of v is a LayerNorm times `scale` plus
    `shift`. Values are kept less their mean, which is within the same bound: they differ by at most twice it.
    """
    v_scale = scale_within(2 * reach(v, scale, shift))
    return AttentionScales(norm_scale(q_weight), norm_scale(k_weight), v_scale, v.weight.dtype)

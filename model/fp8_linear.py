"""A linear layer whose product is taken in FP8: e4m3 with a scale for each output channel and each token."""

import torch
from torch import nn

from flashvsr_trt.kernels.fp8 import Quantised, fp8_product, quantise_rows, quantise_rows_reference


class Fp8Linear(nn.Module):
    """`nn.Linear` with its weight quantised where it is loaded, in float32 and once."""

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

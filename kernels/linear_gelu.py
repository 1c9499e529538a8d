"""A linear layer and GELU (tanh form) as one operator: cuBLASLt's epilogue on a GPU."""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import record_call, runs_kernel


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU(x weight^T + bias): x [tokens, in], weight [out, in], bias [out] -> [tokens, out]."""
    if runs_kernel(x):
        record_call("linear_gelu", "cublaslt")
        return torch.ops.aten._addmm_activation(bias, x, weight.t(), use_gelu=True)
    record_call("linear_gelu", "reference")
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")

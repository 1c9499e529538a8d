"""ReLU(conv3x3(x) + bias + residual) as one operator: cuDNN's and oneDNN's fused convolutions.

The PyTorch reference here is the specification.
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import record_call, runs_kernel, runs_references

ONE = (1, 1)
"""Stride, padding and dilation of every convolution of the decoder."""


def conv_relu_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """x [T, in, h, w], weight [out, in, 3, 3], bias [out], residual [T, out, h, w] -> [T, out, h, w]."""
    made = F.conv2d(x, weight, bias, padding=1)
    return (made if residual is None else made + residual).relu()


def conv_relu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """`conv_relu_reference` without writing anything in between; fastest in channels-last memory."""
    if runs_kernel(x):
        record_call("conv_relu", "cudnn")
        if residual is None:
            return torch.cudnn_convolution_relu(x, weight, bias, ONE, ONE, ONE, 1)
        return torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, ONE, ONE, ONE, 1)
    if runs_onednn(x):
        record_call("conv_relu", "onednn")
        settings = (ONE, ONE, ONE, 1)
        if residual is None:
            return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *settings, "relu", [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, residual, weight, bias, *settings, "add", 1.0, "relu", [], ""
        )
    record_call("conv_relu", "reference")
    return conv_relu_reference(x, weight, bias, residual)


def runs_onednn(x: torch.Tensor) -> bool:
    """Whether oneDNN's fused convolution takes this tensor."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32
    return fits and not runs_references() and torch.backends.mkldnn.is_available()

"""What the encode stage runs beside its convolutions: kernels on CUDA tensors, twins elsewhere."""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import record_call, runs_kernel
from flashvsr_trt.kernels.device import architecture_of
from flashvsr_trt.kernels.norm_silu import norm_silu_reference
from flashvsr_trt.kernels.stack_frames import stack_frames_reference
from flashvsr_trt.kernels.tuning import setting_for


def stack_frames(tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """`stack_frames_reference`, by the kernel where there is a GPU."""
    if not runs_kernel(x):
        record_call("stack_frames", "reference")
        return stack_frames_reference(tail, x, first)
    from flashvsr_trt.kernels.stack_frames_triton import launch_stack_frames

    record_call("stack_frames", "triton")
    setting = setting_for("stack_frames", architecture_of(x.device))
    return launch_stack_frames(tail.contiguous(), x, first, setting)


def conv_norm_silu(
    stacked: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gamma: torch.Tensor
) -> torch.Tensor:
    """A 3x3 convolution without padding, and `norm_silu_reference` of its result.

    Args:
        stacked: [T, h+2, w+2, in].
        weight: [out, in, 3, 3] in channels-last memory.
        bias, gamma: [out].

    Returns:
        [T, h, w, out].
    """
    x = stacked.permute(0, 3, 1, 2)
    if not runs_kernel(x):
        record_call("norm_silu", "reference")
        # oneDNN's convolution starts its sums at the bias: it costs no pass.
        return norm_silu_reference(F.conv2d(x, weight, bias).permute(0, 2, 3, 1), None, gamma)
    from flashvsr_trt.kernels.norm_silu_triton import launch_norm_silu

    record_call("norm_silu", "triton")
    setting = setting_for("norm_silu", architecture_of(x.device))
    return launch_norm_silu(F.conv2d(x, weight).permute(0, 2, 3, 1), bias, gamma, setting)

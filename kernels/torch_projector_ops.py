"""What the encode stage runs beside its convolutions: kernels on CUDA tensors, twins elsewhere."""

import torch

from flashvsr_trt.kernels.calls import record_call, runs_kernel
from flashvsr_trt.kernels.device import architecture_of
from flashvsr_trt.kernels.stack_frames import stack_frames_reference
from flashvsr_trt.kernels.tuning import setting_for


def stack_frames(tail: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`stack_frames_reference`, by the kernel where there is a GPU."""
    if not runs_kernel(x):
        record_call("stack_frames", "reference")
        return stack_frames_reference(tail, x)
    from flashvsr_trt.kernels.stack_frames_triton import launch_stack_frames

    record_call("stack_frames", "triton")
    return launch_stack_frames(tail, x, setting_for("stack_frames", architecture_of(x.device)))

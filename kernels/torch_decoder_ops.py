"""What the decoder and the upscaler run beside their convolutions: kernels on CUDA tensors, twins elsewhere.

Neither export nor torch.compile sees these: both take the modules that specify the stages.
"""

import torch

from flashvsr_trt.kernels.calls import record_call, runs_kernel
from flashvsr_trt.kernels.conv_relu import runs_onednn
from flashvsr_trt.kernels.conv_to_rgb import (
    conv_to_rgb,
    conv_to_rgb_reference,
    neighbour_weight,
    tap_columns,
)
from flashvsr_trt.kernels.device import architecture_of
from flashvsr_trt.kernels.split_frames import split_frames_reference
from flashvsr_trt.kernels.tuning import setting_for


def split_frames(grown: torch.Tensor, frames: int, relu: bool = False) -> torch.Tensor:
    """`split_frames_reference`, by the kernel where there is a GPU."""
    if frames == 1:
        return grown.relu_() if relu else grown
    if not runs_kernel(grown):
        record_call("split_frames", "reference")
        return split_frames_reference(grown, frames, relu)
    from flashvsr_trt.kernels.split_frames_triton import launch_split_frames

    record_call("split_frames", "triton")
    setting = setting_for("split_frames", architecture_of(grown.device))
    return launch_split_frames(grown, frames, relu, setting)


class ConvToRGB(torch.nn.Module):
    """`conv_to_rgb_reference` of one convolution, whose weight is laid out once."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("columns", tap_columns(conv.weight), persistent=False)
        self.register_buffer("neighbours", neighbour_weight(conv.weight), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, C, h, w] in channels-last memory -> float32 [T, 3, h, w]; raises what `conv_to_rgb` does."""
        if runs_onednn(x):
            record_call("conv_to_rgb", "onednn")
            return conv_to_rgb(x, self.neighbours, self.conv.bias)
        if not runs_kernel(x):
            record_call("conv_to_rgb", "reference")
            return conv_to_rgb_reference(x, self.conv.weight, self.conv.bias)
        from flashvsr_trt.kernels.conv_to_rgb_triton import launch_conv_to_rgb

        record_call("conv_to_rgb", "triton")
        setting = setting_for("conv_to_rgb", architecture_of(x.device))
        return launch_conv_to_rgb(x, self.columns, self.conv.bias, setting)

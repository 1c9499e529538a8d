"""The LR projector that runs: on one device, on a rank's rows, and as a graph.

Features are in channels-last memory, and the four frames that a
causal convolution sees are stacked as whole runs of channels: the fastest convolution kernels read them so.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import TOKEN_STRIDE, NetworkConfig
from flashvsr_trt.config.signatures import PIXEL_CHANNELS, PROJECTOR_TAIL
from flashvsr_trt.kernels.calls import runs_references
from flashvsr_trt.kernels.fp8 import LARGEST, Quantised, quantise_rows_reference
from flashvsr_trt.kernels.fp8_products import convolution
from flashvsr_trt.kernels.norm_silu import conv_norm_silu, norm_silu
from flashvsr_trt.kernels.stack_frames import FRAMES, stack_frames
from flashvsr_trt.model.communicator import ONE_PROCESS, Communicator
from flashvsr_trt.model.fp8_linear import ROUNDING, norm_scale
from flashvsr_trt.model.halo import with_halo
from flashvsr_trt.model.projector import ChannelNorm, Projector

CONVOLUTIONS = ("projector.conv1", "projector.conv2")
"""What may be in FP8, by the names of a calibration."""


PIXEL_SCALE = ROUNDING / LARGEST
"""Of conv1's pixels in e4m3: they are within [-1, 1]."""


def convolution_sizes(network: NetworkConfig) -> dict[str, tuple[int, int]]:
    """Channels that each of CONVOLUTIONS makes, and that it reads of its four frames."""
    first, second = network.projector.hidden
    sizes = (first, FRAMES * PIXEL_CHANNELS), (second, FRAMES * first)
    return dict(zip(CONVOLUTIONS, sizes, strict=True))


def channels_innermost(conv: nn.Conv3d) -> torch.Tensor:
    """The weight [out, in, 4, 3, 3] as a channels-last [out, 4*in, 3, 3], frames outside channels.

    The convolution's own weight becomes a view of the same memory, so that there is no second copy.
    """
    laid = conv.weight.detach().permute(0, 3, 4, 2, 1).contiguous()
    conv.weight = nn.Parameter(laid.permute(0, 4, 3, 1, 2), requires_grad=False)
    return laid.flatten(3).permute(0, 3, 1, 2)


class FusedCausalConv(nn.Module):
    """A (4,3,3) convolution with stride (2,1,1) over a tail and frames, the norm and SiLU after it."""

    weight: torch.Tensor
    bias: torch.Tensor
    gamma: torch.Tensor

    def __init__(self, conv: nn.Conv3d, norm: ChannelNorm) -> None:
        super().__init__()
        self.register_buffer("weight", channels_innermost(conv))
        self.register_buffer("bias", conv.get_parameter("bias").detach())
        self.register_buffer("gamma", norm.gamma.detach().flatten())

    def forward(
        self, tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor, communicator: Communicator
    ) -> torch.Tensor:
        """tail [2, in, h, w] and x [T, in, h, w], T even -> [T/2, out, h, w]; `stack_frames` has `first`."""
        return with_halo(lambda tail, x: self._convolve(tail, x, first), (tail, x), communicator)

    def _convolve(self, tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        return conv_norm_silu(stack_frames(tail, x, first), self.weight, self.bias, self.gamma)


class Fp8CausalConv(FusedCausalConv):
    """A `FusedCausalConv` that multiplies in e4m3: weights with a scale a channel, pixels with a constant."""

    scale: torch.Tensor

    def __init__(self, conv: FusedCausalConv, pixel_scale: float) -> None:
        nn.Module.__init__(self)
        weight = quantise_rows_reference(conv.weight.permute(0, 2, 3, 1).flatten(1))
        self.pixel_scale = pixel_scale
        self.register_buffer("weight", weight.values)
        self.register_buffer("scale", weight.scale * pixel_scale)
        self.register_buffer("bias", conv.bias)
        self.register_buffer("gamma", conv.gamma)

    def _convolve(self, tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        stacked = stack_frames(tail, x, first, self.pixel_scale)
        made = convolution(stacked, Quantised(self.weight, self.scale), x.dtype)
        return norm_silu(made, self.bias, self.gamma)


class FusedProjector(nn.Module):
    """`Projector`, whose weights it shares, of pixels already unshuffled."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.conv1 = FusedCausalConv(projector.conv1, projector.norm1)
        self.conv2 = FusedCausalConv(projector.conv2, projector.norm2)
        self.head = projector.linear_layers[0]

    def quantise(self, chosen: Callable[[str], bool]) -> None:
        """Take in FP8 from now on those of CONVOLUTIONS of which `chosen` is true."""
        # SiLU makes nothing larger than it is, and the norm before it is that of a row.
        scales = PIXEL_SCALE, norm_scale(self.conv1.gamma)
        for path, scale in zip(CONVOLUTIONS, scales, strict=True):
            name = path.removeprefix("projector.")
            layer = self.get_submodule(name)
            if chosen(path) and type(layer) is FusedCausalConv:
                self.set_submodule(name, Fp8CausalConv(layer, scale))

    def forward(
        self,
        pixels: torch.Tensor,
        first: torch.Tensor,
        pixel_tail: torch.Tensor,
        hidden_tail: torch.Tensor,
        communicator: Communicator = ONE_PROCESS,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One call over T frames, T a multiple of 4. Of a rank, all tensors have its rows.

        Args:
            pixels: [T, 768, tH/16, tW/16], `unshuffle` of the upscaled frames.
            first: bool scalar; the tails are then replaced by two copies of their first frame.
            pixel_tail: [2, 768, tH/16, tW/16], the last two of `pixels` before these.
            hidden_tail: [2, hidden, tH/16, tW/16], the last two inputs of conv2.

        Returns:
            tokens [T/4 * tH/16 * tW/16, dim] in (frame, row, column) order, and the next two tails.
        """
        hidden = self.conv1(pixel_tail, pixels, first, communicator)
        features = self.conv2(hidden_tail, hidden, first, communicator)
        tokens = self.head(features.permute(0, 2, 3, 1).flatten(0, 2))
        return tokens, pixels[-PROJECTOR_TAIL:], hidden[-PROJECTOR_TAIL:]


def unshuffle(video: torch.Tensor) -> torch.Tensor:
    """[T, 3, tH, tW] -> [T, 768, tH/16, tW/16], channels in (colour, row, column) order.

    In channels-last memory, as `kernels.upsample_triton` writes pixels.
    """
    if runs_references():
        return F.pixel_unshuffle(video, TOKEN_STRIDE)
    frames, colours, height, width = video.shape
    cells = video.view(
        frames, colours, height // TOKEN_STRIDE, TOKEN_STRIDE, width // TOKEN_STRIDE, TOKEN_STRIDE
    )
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)

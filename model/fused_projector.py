"""The LR projector with channels innermost: what the torch executor runs, specified by `projector.Projector`.

The four frames that a causal convolution sees are stacked as whole runs of channels, which is how the fastest
convolution kernels read them.
"""

import torch
from torch import nn

from flashvsr_trt.config.presets import TOKEN_STRIDE
from flashvsr_trt.config.signatures import PROJECTOR_TAIL
from flashvsr_trt.kernels.torch_projector_ops import conv_norm_silu, stack_frames
from flashvsr_trt.model.projector import ChannelNorm, Projector


def channels_innermost(conv: nn.Conv3d) -> torch.Tensor:
    """The weight [out, in, 4, 3, 3] as a channels-last [out, 4*in, 3, 3], frames outside channels.

    The convolution's own weight becomes a view of the same memory, so that there is no second copy.
    """
    laid = conv.weight.permute(0, 3, 4, 2, 1).contiguous()
    conv.weight = nn.Parameter(laid.permute(0, 4, 3, 1, 2), requires_grad=False)
    return laid.flatten(3).permute(0, 3, 1, 2)


class FusedCausalConv(nn.Module):
    """`projector.causal_conv`, the norm and SiLU after it, on [T, h, w, C]."""

    def __init__(self, conv: nn.Conv3d, norm: ChannelNorm) -> None:
        super().__init__()
        self.register_buffer("weight", channels_innermost(conv), persistent=False)
        self.bias, self.gamma = conv.bias, norm.gamma.flatten()

    def forward(self, tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """tail [2, in, h, w] and x [T, h, w, in], T even -> [T/2, h, w, out]; `stack_frames` has `first`."""
        stacked = stack_frames(tail.permute(0, 2, 3, 1), x, first)
        return conv_norm_silu(stacked, self.weight, self.bias, self.gamma)


class FusedProjector(nn.Module):
    """`Projector`, whose weights it shares, of pixels already unshuffled; tails are channels-last."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.conv1 = FusedCausalConv(projector.conv1, projector.norm1)
        self.conv2 = FusedCausalConv(projector.conv2, projector.norm2)
        self.head = projector.linear_layers[0]

    def forward(
        self, pixels: torch.Tensor, first: torch.Tensor, pixel_tail: torch.Tensor, hidden_tail: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Projector.forward`; `pixels` are `unshuffle(video)`."""
        hidden = self.conv1(pixel_tail, pixels, first)
        features = self.conv2(hidden_tail, hidden, first)
        tokens = self.head(features.flatten(0, 2))
        return tokens, *(x[-PROJECTOR_TAIL:].permute(0, 3, 1, 2) for x in (pixels, hidden))


def unshuffle(video: torch.Tensor) -> torch.Tensor:
    """[T, 3, tH, tW] -> [T, tH/16, tW/16, 768], channels in (colour, row, column) order.

    The layout in which `kernels.upsample_triton` writes pixels.
    """
    frames, colours, height, width = video.shape
    cells = video.view(
        frames, colours, height // TOKEN_STRIDE, TOKEN_STRIDE, width // TOKEN_STRIDE, TOKEN_STRIDE
    )
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3)

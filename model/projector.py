"""LR projector: upscaled frames to conditioning tokens (official `Causal_LQ4x_Proj`, one linear head).

This is the network as published; `fused_projector.py` runs the same weights faster.
"""

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import TOKEN_STRIDE, NetworkConfig
from flashvsr_trt.config.signatures import PIXEL_CHANNELS, PROJECTOR_TAIL

TIME_STRIDE = 2


class ChannelNorm(nn.Module):
    """x / max(||x||, 1e-12) * sqrt(C) * gamma over the channels of [T, C, h, w] (official `RMS_norm`).

    In float32: fp16 squares overflow, and sqrt(C) is no number of bfloat16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal = F.normalize(x.float(), dim=1) * x.shape[1] ** 0.5
        return (normal * self.gamma.squeeze(-1).float()).to(x.dtype)


def causal_conv(conv: nn.Conv3d, tail: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A (4,3,3) convolution with stride (2,1,1) over [tail | x] as one 2-D convolution.

    The four frames of each output are stacked in channels: the same sums, without the slow 3-D kernels.

    Args:
        conv: holds the weight [out, in, 4, 3, 3] and bias.
        tail: [2, in, h, w], the frames before `x`.
        x: [T, in, h, w], T even.

    Returns:
        [T/2, out, h, w].
    """
    frames = F.pad(torch.cat([tail, x]), (1,) * 4, mode="replicate")
    count, channels, height, width = frames.shape
    pairs = frames.view(count // 2, 2, channels, height, width)
    quads = torch.cat([pairs[:-1], pairs[1:]], dim=1).transpose(1, 2)
    stacked = quads.reshape(count // 2 - 1, channels * 4, height, width)
    return F.conv2d(stacked, conv.weight.flatten(1, 2), conv.bias)


class Projector(nn.Module):
    """Two causal convolutions and one linear layer; two frames in give one conv2 input, four one latent."""

    def __init__(self, network: NetworkConfig) -> None:
        super().__init__()
        first, second = network.projector.hidden
        self.conv1 = nn.Conv3d(PIXEL_CHANNELS, first, (4, 3, 3), stride=(TIME_STRIDE, 1, 1))
        self.norm1 = ChannelNorm(first)
        self.conv2 = nn.Conv3d(first, second, (4, 3, 3), stride=(TIME_STRIDE, 1, 1))
        self.norm2 = ChannelNorm(second)
        self.linear_layers = nn.ModuleList([nn.Linear(second, network.dit.dim)])

    def forward(
        self, video: torch.Tensor, first: torch.Tensor, pixel_tail: torch.Tensor, hidden_tail: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One call over T frames, T a multiple of 4.

        Args:
            video: [T, 3, tH, tW] in [-1, 1].
            first: bool scalar; the tails are then replaced by two copies of their first frame.
            pixel_tail: [2, 768, tH/16, tW/16], the last two pixel-unshuffled frames before `video`.
            hidden_tail: [2, hidden, tH/16, tW/16], the last two inputs of conv2.

        Returns:
            tokens [T/4 * tH/16 * tW/16, dim] in (frame, row, column) order, and the next two tails.
        """
        pixels = F.pixel_unshuffle(video, TOKEN_STRIDE)
        pixel_tail = torch.where(first, pixels[:1].expand_as(pixel_tail), pixel_tail)
        hidden = F.silu(self.norm1(causal_conv(self.conv1, pixel_tail, pixels)))
        hidden_tail = torch.where(first, hidden[:1].expand_as(hidden_tail), hidden_tail)
        features = F.silu(self.norm2(causal_conv(self.conv2, hidden_tail, hidden)))
        tokens = self.linear_layers[0](features.permute(0, 2, 3, 1).flatten(0, 2))
        return tokens, pixels[-PROJECTOR_TAIL:], hidden[-PROJECTOR_TAIL:]

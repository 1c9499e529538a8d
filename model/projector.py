"""The LR projector's parameters as published (official `Causal_LQ4x_Proj`, one linear head).

Weights are loaded into it; `fused_projector.py` makes of it the form that runs and is exported.
"""

import torch
from torch import nn

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.config.signatures import PIXEL_CHANNELS

TIME_STRIDE = 2


class ChannelNorm(nn.Module):
    """The factors of `norm_silu_reference`, by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))


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

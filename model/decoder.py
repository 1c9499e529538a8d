"""The TC decoder's layers as published: latents and upscaled frames to frames (official `TCDecoder.py`).

Weights are loaded into them; `fused_decoder.py` makes of them the form that runs and is exported.

Time is the batch axis: every layer sees all frames of the call at once, and a MemBlock's past is the same
batch moved by one frame behind its carried memory.
"""

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import FRAMES_PER_LATENT, LATENT_CHANNELS, LATENT_STRIDE, NetworkConfig

CONDITION_CHANNELS = 3 * FRAMES_PER_LATENT * LATENT_STRIDE * LATENT_STRIDE
WARM_UP_FRAMES = FRAMES_PER_LATENT - 1
"""Output frames of the first call that precede the clip and are dropped."""


class SoftClamp(nn.Module):
    """tanh(x / 3) * 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


class MemBlock(nn.Module):
    """ReLU(conv-ReLU-conv-ReLU-conv([x, past]) + x), past = the block's input one frame earlier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels * 2, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [T, C, h, w] and memory [1, C, h, w] -> output [T, C, h, w] and the next memory."""
        past = torch.cat([memory, x[:-1]])
        return F.relu(self.conv(torch.cat([x, past], dim=1)) + x), x[-1:]


class TGrow(nn.Module):
    """A 1x1 convolution whose channels become `stride` consecutive frames."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, C, h, w] -> [T*stride, C, h, w]."""
        _, channels, height, width = x.shape
        return self.conv(x).reshape(-1, channels, height, width)


def condition_cells(condition: torch.Tensor) -> torch.Tensor:
    """[4T, 3, tH, tW] -> [T, 768, tH/8, tW/8], channels in (colour, frame, row, column) order."""
    grouped = condition.reshape(-1, FRAMES_PER_LATENT, *condition.shape[1:]).transpose(1, 2)
    return F.pixel_unshuffle(grouped.flatten(1, 2), LATENT_STRIDE)


class Decoder(nn.Module):
    """The flat Sequential of the published file, a TAEHV decoder."""

    def __init__(self, network: NetworkConfig) -> None:
        super().__init__()
        c0, c1, c2, c3 = network.decoder.channels
        self.decoder = nn.Sequential(
            SoftClamp(),
            nn.Conv2d(CONDITION_CHANNELS + LATENT_CHANNELS, c0, 3, padding=1),
            nn.ReLU(),
            # Index 3 and 24: the convolution that v1.1 inserts after every ReLU of the Sequential.
            nn.Conv2d(c0, c0, 3, padding=1, bias=False),
            nn.ReLU(),
            *self._stage(c0, c1, time_stride=1),
            *self._stage(c1, c2, time_stride=2),
            *self._stage(c2, c3, time_stride=2),
            nn.ReLU(),
            nn.Conv2d(c3, c3, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c3, 3, 3, padding=1),
        )

    @staticmethod
    def _stage(channels: int, next_channels: int, time_stride: int) -> list[nn.Module]:
        return [
            MemBlock(channels),
            MemBlock(channels),
            MemBlock(channels),
            nn.Upsample(scale_factor=2),
            TGrow(channels, time_stride),
            nn.Conv2d(channels, next_channels, 3, padding=1, bias=False),
        ]

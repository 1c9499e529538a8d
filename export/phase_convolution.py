"""The decoder's transposed convolutions as plain ones: TensorRT-RTX 1.7 builds no bfloat16 deconvolution.

Output row 2j + a of a transposed convolution of kernel 4, stride 2 and padding 1 sees input rows j - 1 + a
and j + a only, and columns alike. So each of the four phases (a, b) is a 2x2 convolution, and one convolution
with four times the channels does them all, with the same number of multiplications.
"""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.model.fused_decoder import Grow
from flashvsr_trt.model.network import Network

STRIDE = 2


class PhaseGrow(nn.Module):
    """Same input and output as `Grow`."""

    def __init__(self, grow: Grow) -> None:
        super().__init__()
        self.channels = grow.channels
        self.register_buffer("weight", phase_kernels(grow.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, in, h, w] -> [T*stride, out, 2h, 2w]."""
        height, width = x.shape[2:]
        # One row and column more than there are: phase a starts at row a.
        every = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight).unflatten(1, (-1, STRIDE, STRIDE))
        phases = [
            every[:, :, a, b, a : a + height, b : b + width] for a in range(STRIDE) for b in range(STRIDE)
        ]
        grown = F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), STRIDE)
        return grown.reshape(-1, self.channels, *grown.shape[2:])


def phase_kernels(weight: torch.Tensor) -> torch.Tensor:
    """[in, out, 4, 4] of a transposed convolution -> [out * 4, in, 2, 2], a channel's phases adjacent."""
    phases = [
        weight[:, :, [3 - a, 1 - a]][:, :, :, [3 - b, 1 - b]] for a in range(STRIDE) for b in range(STRIDE)
    ]
    return torch.stack(phases, dim=2).flatten(1, 2).transpose(0, 1).contiguous()


def with_phase_convolutions(network: Network) -> Network:
    """The network as it is exported: the same but for the decoder's transposed convolutions."""
    decoder = copy.copy(network.decoder)
    decoder._modules = dict(decoder._modules)
    decoder.grows = nn.ModuleList(PhaseGrow(grow) for grow in network.decoder.grows)
    return replace(network, decoder=decoder)

"""The decoder that runs as a graph's: every frame is a tensor of its own, a MemBlock's past the one before.

A `Grow` makes each of its frames by a weight of its own: an engine neither joins frames nor takes them apart.
These weights are laid out here once, since an engine would lay them out in every step. All others are shared.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.model.communicator import Communicator
from flashvsr_trt.model.fused_decoder import Frames, FusedDecoder, Grow

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Positions of an output pixel in its 2x2 cell: row a, column b."""


def exported_decoder(decoder: FusedDecoder) -> FusedDecoder:
    """The same decoder with every frame alone, whatever its size."""
    exported = copy.copy(decoder)
    exported._modules = dict(decoder._modules)
    exported.grows = nn.ModuleList(map(ExportedGrow, decoder.grows))
    exported.alone_pixels = 1
    return exported


class ExportedGrow(nn.Module):
    """`Grow` of one frame, a convolution for each of the frames that it becomes.

    A 4x4 kernel of stride 2 makes each output pixel of 2x2 input pixels, by one of four 2x2 kernels: one for
    each position (a, b) of the pixel in its 2x2 cell. For runtimes that have no transposed convolution in
    bfloat16 they are one convolution of four times the channels, whose result for position (a, b) is shifted
    by (a, b). The products are the same.
    """

    def __init__(self, grow: Grow) -> None:
        super().__init__()
        self.channels, self.frames, self.relu = grow.channels, grow.stride, grow.relu
        self.phased = grow.weight.dtype == torch.bfloat16
        for frame, weight in enumerate(grow.weight.split(grow.channels, dim=1)):
            self.register_buffer(
                f"weight_{frame}", phase_kernels(weight) if self.phased else weight.contiguous()
            )

    def forward(self, x: torch.Tensor, communicator: Communicator) -> Frames:
        """[1, in, h, w] -> the frames that it becomes, each [1, out, 2h, 2w]. A graph has no other ranks."""
        frames = [self._run(x, getattr(self, f"weight_{frame}")) for frame in range(self.frames)]
        return [frame.relu() for frame in frames] if self.relu else frames

    def _run(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if not self.phased:
            return F.conv_transpose2d(x, weight, stride=2, padding=1)
        height, width = x.shape[2:]
        phases = F.conv2d(x, weight, padding=1)
        shifted = [
            phases[:, at * self.channels : (at + 1) * self.channels, a : a + height, b : b + width]
            for at, (a, b) in enumerate(PHASES)
        ]
        cells = torch.cat(shifted, dim=1).view(1, 2, 2, self.channels, height, width)
        return cells.permute(0, 3, 4, 1, 5, 2).reshape(1, self.channels, 2 * height, 2 * width)


def phase_kernels(weight: torch.Tensor) -> torch.Tensor:
    """The 4x4 kernels [in, out, 4, 4] of a transposed convolution as 2x2 ones [4*out, in, 2, 2], by phase."""
    # Rows of the reversed kernel are 2u + a: row u of the 2x2 kernel of position a; columns alike.
    split = weight.flip(2, 3).unflatten(3, (2, 2)).unflatten(2, (2, 2))
    return split.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous()

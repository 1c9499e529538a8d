"""The TC decoder frame by frame: what is exported, specified by `folded_decoder.py`.

Every frame is a tensor of its own. A MemBlock's past is then the frame before as it lies, and a `Grow` makes
each of its frames by a weight of its own: an engine neither joins frames nor takes them apart. Weights are
laid out here once, since an engine would lay them out in every step.
"""

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import FRAMES_PER_LATENT
from flashvsr_trt.model.decoder import CONDITION_CHANNELS, MemBlock, condition_cells
from flashvsr_trt.model.folded_decoder import FoldedDecoder, Grow

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Positions of an output pixel in its 2x2 cell: row a, column b."""


class ExportedMemBlock(nn.Module):
    """`MemBlock` of one frame, with the weight of [x, past] as two."""

    def __init__(self, block: MemBlock) -> None:
        super().__init__()
        first, _, self.second, _, self.third = block.conv
        self.register_buffer("bias", first.bias)
        for name, weight in zip(("present", "past"), first.weight.chunk(2, dim=1), strict=True):
            self.register_buffer(name, weight.contiguous())

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        """x and past [1, C, h, w] -> [1, C, h, w]."""
        hidden = F.conv2d(past, self.past, self.bias, padding=1)
        hidden = (F.conv2d(x, self.present, padding=1) + hidden).relu()
        return (self.third(self.second(hidden).relu()) + x).relu()


class TransposedGrow(nn.Module):
    """`Grow`, a transposed convolution for each of its frames."""

    def __init__(self, grow: Grow) -> None:
        super().__init__()
        self.frames = grow.weight.shape[1] // grow.channels
        for frame, weight in enumerate(grow.weight.split(grow.channels, dim=1)):
            self.register_buffer(f"weight_{frame}", weight.contiguous())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[1, in, h, w] -> the frames that it becomes, each [1, out, 2h, 2w]."""
        weights = (getattr(self, f"weight_{frame}") for frame in range(self.frames))
        return [F.conv_transpose2d(x, weight, stride=2, padding=1) for weight in weights]


class PhasedGrow(nn.Module):
    """`Grow` as convolutions, for runtimes that have no transposed ones in bfloat16.

    A 4x4 kernel of stride 2 makes each output pixel of 2x2 input pixels, by one of four 2x2 kernels: one for
    each position (a, b) of the pixel in its 2x2 cell. They are one convolution of four times the channels,
    whose result for position (a, b) is shifted by (a, b). The products are the same.
    """

    def __init__(self, grow: Grow) -> None:
        super().__init__()
        self.channels = grow.channels
        self.frames = grow.weight.shape[1] // grow.channels
        for frame, weight in enumerate(grow.weight.split(grow.channels, dim=1)):
            self.register_buffer(f"weight_{frame}", phase_kernels(weight))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """See `TransposedGrow.forward`."""
        weights = (getattr(self, f"weight_{frame}") for frame in range(self.frames))
        return [self._interleave(F.conv2d(x, weight, padding=1), *x.shape[2:]) for weight in weights]

    def _interleave(self, phases: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """[1, 4*out, h+1, w+1] -> [1, out, 2h, 2w]."""
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


class ExportedDecoder(nn.Module):
    """Same inputs, state and outputs as `FoldedDecoder`."""

    def __init__(self, decoder: FoldedDecoder) -> None:
        super().__init__()
        self.clamp = decoder.clamp
        first, self.second = decoder.entry
        self.register_buffer("bias", first.bias)
        sizes = [CONDITION_CHANNELS, first.weight.shape[1] - CONDITION_CHANNELS]
        for name, weight in zip(("cells", "latent"), first.weight.split(sizes, dim=1), strict=True):
            self.register_buffer(name, weight.contiguous())
        kind = PhasedGrow if first.weight.dtype == torch.bfloat16 else TransposedGrow
        self.groups = nn.ModuleList(nn.ModuleList(map(ExportedMemBlock, group)) for group in decoder.groups)
        self.grows = nn.ModuleList(map(kind, decoder.grows))
        self.inserted, self.last = decoder.exit

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, memory: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `Decoder.forward`."""
        conditions = condition.split(FRAMES_PER_LATENT)
        frames = [self._enter(*pair) for pair in zip(latent.split(1), conditions, strict=True)]
        remaining = iter(memory)
        next_memory = []
        for blocks, grow in zip(self.groups, self.grows, strict=True):
            for block in blocks:
                pasts = [next(remaining), *frames[:-1]]
                next_memory.append(frames[-1])
                frames = [block(x, past) for x, past in zip(frames, pasts, strict=True)]
            frames = [grown for x in frames for grown in grow(x)]
        return torch.cat([self._exit(x) for x in frames]), next_memory

    def _enter(self, latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[1, 16, h, w] and [4, 3, tH, tW] -> [1, c0, h, w]."""
        of_latent = F.conv2d(self.clamp(latent), self.latent, self.bias, padding=1)
        of_cells = F.conv2d(self.clamp(condition_cells(condition)), self.cells, padding=1)
        return self.second((of_cells + of_latent).relu()).relu()

    def _exit(self, x: torch.Tensor) -> torch.Tensor:
        """[1, c3, tH, tW] -> [1, 3, tH, tW]."""
        return self.last(self.inserted(x.relu()).relu())

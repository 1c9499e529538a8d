"""The TC decoder through fused operators: what the torch executor runs, specified by `folded_decoder.py`.

A convolution, its bias, the residual and the ReLU are one operator. A MemBlock's first convolution is two, so
that its input and its past are never copied side by side. On a CPU the same lines run oneDNN's operators.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import FRAMES_PER_LATENT, LATENT_STRIDE
from flashvsr_trt.kernels.conv_relu import conv_relu
from flashvsr_trt.kernels.torch_decoder_ops import ConvToRGB, split_frames
from flashvsr_trt.memory import ALONE_PIXELS
from flashvsr_trt.model.decoder import CONDITION_CHANNELS, MemBlock
from flashvsr_trt.model.folded_decoder import FoldedDecoder, Grow

Frames = Sequence[torch.Tensor]
"""Consecutive frames in one or several tensors [T, C, h, w]."""


class FusedMemBlock(nn.Module):
    """`MemBlock` with the weight of [x, past] as two."""

    def __init__(self, block: MemBlock) -> None:
        super().__init__()
        first, _, self.second, _, self.third = block.conv
        self.bias = first.bias
        for name, weight in zip(("present", "past"), first.weight.chunk(2, dim=1), strict=True):
            self.register_buffer(name, weight.contiguous(memory_format=torch.channels_last))

    def forward(self, parts: Frames, memory: torch.Tensor) -> tuple[Frames, torch.Tensor]:
        """See `MemBlock.forward`; x comes and goes as `parts`, runs of its frames."""
        made = []
        for x in parts:
            past = F.conv2d(one_frame_earlier(x, memory), self.past, padding=1)
            hidden = conv_relu(x, self.present, self.bias, past)
            hidden = conv_relu(hidden, self.second.weight, self.second.bias)
            made.append(conv_relu(hidden, self.third.weight, self.third.bias, x))
            memory = x[-1:]
        return made, memory


def one_frame_earlier(x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """`torch.cat([memory, x[:-1]])` in the memory layout of x [T, C, h, w]; memory [1, C, h, w].

    Both parts are dense blocks of their tensors, which CUDA copies as bytes where `cat` runs a slower kernel.
    """
    if len(x) == 1:
        return memory
    past = torch.empty_like(x)
    past[:1].copy_(memory)
    past[1:].copy_(x[:-1])
    return past


class FusedDecoder(nn.Module):
    """Same inputs, state and outputs as `FoldedDecoder`, whose weights it shares; frames are float32."""

    def __init__(self, decoder: FoldedDecoder, alone_pixels: int = ALONE_PIXELS) -> None:
        super().__init__()
        self.alone_pixels = alone_pixels
        self.clamp, self.entry, self.grows = decoder.clamp, decoder.entry, decoder.grows
        self.groups = nn.ModuleList(nn.ModuleList(map(FusedMemBlock, group)) for group in decoder.groups)
        self.inserted, last = decoder.exit
        self.last = ConvToRGB(last)

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, memory: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `Decoder.forward`."""
        x = self.clamp(decoder_input(latent, condition))
        for conv in self.entry:
            x = conv_relu(x, conv.weight, conv.bias)
        *grows, last_grow = self.grows
        remaining = iter(memory)
        next_memory = []
        parts = [x]
        for place, blocks in enumerate(self.groups):
            if parts[0][0, 0].numel() >= self.alone_pixels:
                parts = [frame for part in parts for frame in part.split(1)]
            for block in blocks:
                parts, carried = block(parts, next(remaining))
                next_memory.append(carried)
            if place < len(grows):
                parts = [grow_frames(grows[place], part, relu=False) for part in parts]
        pixels = [self._exit(grow_frames(last_grow, part, relu=True)) for part in parts]
        return pixels[0] if len(pixels) == 1 else torch.cat(pixels), next_memory

    def _exit(self, x: torch.Tensor) -> torch.Tensor:
        """[T, C, tH, tW] -> [T, 3, tH, tW]."""
        return self.last(conv_relu(x, self.inserted.weight, self.inserted.bias))


def decoder_input(latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """`torch.cat([condition_cells(condition), latent], dim=1)` in channels-last memory, moved once."""
    frames, channels, height, width = latent.shape
    made = latent.new_empty(frames, height, width, CONDITION_CHANNELS + channels)
    cells, rest = made.split([CONDITION_CHANNELS, channels], dim=-1)
    pixels = condition.view(frames, FRAMES_PER_LATENT, 3, height, LATENT_STRIDE, width, LATENT_STRIDE)
    pixels = pixels.permute(0, 3, 5, 2, 1, 4, 6)
    cells.unflatten(-1, pixels.shape[3:]).copy_(pixels)
    rest.copy_(latent.permute(0, 2, 3, 1))
    return made.permute(0, 3, 1, 2)


def grow_frames(grow: Grow, x: torch.Tensor, relu: bool) -> torch.Tensor:
    """`Grow.forward`, and a ReLU where one follows."""
    grown = F.conv_transpose2d(x, grow.weight, stride=2, padding=1)
    return split_frames(grown, grown.shape[1] // grow.channels, relu)

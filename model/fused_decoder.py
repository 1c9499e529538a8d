"""The TC decoder that runs: on one device, on a rank's rows, and as a graph.

Between two groups of MemBlocks stand a nearest 2x upsampling, a 1x1 TGrow and a 3x3 convolution, with no
bias and nothing non-linear between them. Together they are one transposed convolution, which does 4/9 of the
multiplications and never makes the upsampled input.

A convolution, its bias, the residual and the ReLU are one operator. A MemBlock's first convolution is two, so
that its input and its past are never copied side by side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import FRAMES_PER_LATENT, LATENT_STRIDE
from flashvsr_trt.kernels.calls import runs_references
from flashvsr_trt.kernels.conv_relu import conv_relu
from flashvsr_trt.kernels.conv_to_rgb import ConvToRGB
from flashvsr_trt.kernels.split_frames import split_frames
from flashvsr_trt.model.balanced_rounding import round_balanced
from flashvsr_trt.model.communicator import ONE_PROCESS, Communicator
from flashvsr_trt.model.decoder import CONDITION_CHANNELS, Decoder, MemBlock, TGrow, condition_cells
from flashvsr_trt.model.halo import with_halo
from flashvsr_trt.stage_memory import ALONE_PIXELS

HALO = 2
"""Rows of half the output's size that one of the output sees on either side: of a 4x4 and two 3x3 kernels."""

Frames = Sequence[torch.Tensor]
"""Consecutive frames in one or several tensors [T, C, h, w]."""


def fold_grow(tgrow: torch.Tensor, conv: torch.Tensor) -> torch.Tensor:
    """One kernel for nearest 2x, TGrow and convolution.

    Args:
        tgrow: [stride*C, in, 1, 1].
        conv: [out, C, 3, 3].

    Returns:
        [in, stride*out, 4, 4] for `conv_transpose2d(stride=2, padding=1)`, in the dtype of `conv`; its
        output channels are `stride` consecutive frames. Folded in float32.
    """
    grow = tgrow.float().view(-1, conv.shape[1], tgrow.shape[1])
    taps = torch.einsum("omhw,smi->isohw", conv.float(), grow).flatten(1, 2).flip(-1, -2)
    # Each low-resolution pixel is seen through four neighbouring high-resolution ones.
    shifted = [F.pad(taps, (q, 1 - q, p, 1 - p)) for p in (0, 1) for q in (0, 1)]
    return torch.stack(shifted).sum(dim=0).to(conv.dtype)


class ConvReLU(nn.Module):
    """`conv_relu` with a weight [out, in, 3, 3] and a bias [out] or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", channels_last(weight))
        self.register_buffer("bias", bias)

    def forward(
        self, x: torch.Tensor, communicator: Communicator, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [T, in, h, w] and residual [T, out, h, w] -> [T, out, h, w]."""

        def run(x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
            return conv_relu(x, self.weight, self.bias, residual)

        return with_halo(run, (x,), communicator, () if residual is None else (residual,))


class FusedMemBlock(nn.Module):
    """`MemBlock` with the weight of [x, past] as two."""

    def __init__(self, block: MemBlock, dtype: torch.dtype) -> None:
        super().__init__()
        (first, bias), second, third = (rounded(block.conv[place], dtype) for place in (0, 2, 4))
        present, past = first.chunk(2, dim=1)
        self.present, self.second, self.third = ConvReLU(present, bias), ConvReLU(*second), ConvReLU(*third)
        self.register_buffer("past", channels_last(past))

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, communicator: Communicator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `MemBlock.forward`."""
        earlier = one_frame_earlier(x, memory)
        past = with_halo(lambda x: F.conv2d(x, self.past, padding=1), (earlier,), communicator)
        hidden = self.second(self.present(x, communicator, past), communicator)
        return self.third(hidden, communicator, x), x if len(x) == 1 else x[-1:]


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


class Grow(nn.Module):
    """To twice the height and width and `stride` times the frames; `relu` where a ReLU follows."""

    def __init__(self, tgrow: TGrow, conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> None:
        super().__init__()
        self.channels, self.relu = conv.out_channels, relu
        weight = round_balanced(fold_grow(tgrow.conv.weight, conv.weight), dtype, dim=0)
        self.register_buffer("weight", channels_last(weight))

    @property
    def stride(self) -> int:
        """Frames that each frame becomes."""
        return self.weight.shape[1] // self.channels

    def forward(self, x: torch.Tensor, communicator: Communicator) -> Frames:
        """[T, in, h, w] -> [T*stride, out, 2h, 2w], as the one entry of a list."""
        return [with_halo(self._run, (x,), communicator)]

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        grown = F.conv_transpose2d(x, self.weight, stride=2, padding=1)
        return split_frames(grown, self.stride, self.relu)


class FusedDecoder(nn.Module):
    """`Decoder`, whose weights are folded into it; frames are float32, but in a graph.

    Args:
        decoder: float32. Its weights are folded, and then rounded once.
        dtype: of weights and activations.
        alone_pixels: feature maps this large are run frame by frame.
        band_pixels: at the output's size, bands of rows of no more pixels are made one by one; None is whole.
    """

    def __init__(
        self,
        decoder: Decoder,
        dtype: torch.dtype,
        alone_pixels: int = ALONE_PIXELS,
        band_pixels: int | None = None,
    ) -> None:
        super().__init__()
        flat, self.alone_pixels, self.band_pixels = decoder.decoder, alone_pixels, band_pixels
        self.clamp = flat[0]
        self.entry = nn.ModuleList(ConvReLU(*rounded(flat[place], dtype)) for place in (1, 3))
        self.groups = nn.ModuleList(
            nn.ModuleList(FusedMemBlock(block, dtype) for block in flat[place : place + 3])
            for place in (5, 11, 17)
        )
        self.grows = nn.ModuleList(
            Grow(flat[place], flat[place + 1], dtype, relu=place == 21) for place in (9, 15, 21)
        )
        self.inserted = ConvReLU(*rounded(flat[24], dtype))
        self.last = ConvToRGB(*rounded(flat[26], dtype))

    def forward(
        self,
        latent: torch.Tensor,
        condition: torch.Tensor,
        memory: list[torch.Tensor],
        communicator: Communicator = ONE_PROCESS,
        frame_rows: int | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One call over T latent frames.

        Args:
            latent: [T, 16, tH/8, tW/8].
            condition: [4T, 3, tH, tW] in [-1, 1], the upscaled frames of these latents.
            memory: one [1, C, h, w] per MemBlock, zeros at the start of a clip.
            communicator: of a rank, tensors have its rows.
            frame_rows: tH/8 of the frame, for a rank.

        Returns:
            frames [4T, 3, tH, tW], about [0, 1], and the next memory.
        """
        # Of the whole frame, so that all ranks run, and trade rows, alike.
        pixels = (frame_rows or latent.shape[2]) * latent.shape[3]
        together = 1 if pixels >= self.alone_pixels else len(latent)
        inputs = latent.split(together), condition.split(together * FRAMES_PER_LATENT)
        parts = [self._enter(*pair, communicator) for pair in zip(*inputs, strict=True)]
        memory = list(memory)
        made = self._from_level(0, parts, pixels, memory, communicator)
        return made[0] if len(made) == 1 else torch.cat(made), memory

    def _from_level(
        self, level: int, parts: Frames, pixels: int, memory: list[torch.Tensor], communicator: Communicator
    ) -> Frames:
        """Parts through a level and all after it; `memory` becomes the next one.

        A part's frames are made before the next part runs: each level has the maps of one part at a time.
        """
        if pixels >= self.alone_pixels:
            parts = [frame for part in parts for frame in (part.split(1) if len(part) > 1 else [part])]
        made, blocks = [], self.groups[level]
        for part in parts:
            for place, block in enumerate(blocks, level * len(blocks)):
                part, memory[place] = block(part, memory[place], communicator)
            if level + 1 == len(self.groups):
                made += self._leave(part, communicator)
            else:
                grown = self.grows[level](part, communicator)
                made += self._from_level(level + 1, grown, 4 * pixels, memory, communicator)
        return made

    def _leave(self, x: torch.Tensor, communicator: Communicator) -> Frames:
        """[T, c2, tH/2, tW/2] -> its frames, each [.., 3, tH, tW]; in bands of rows where that is asked for.

        A band's maps are made of HALO rows more to each side, and what these make is left out: the same bits.
        """
        rows, width = x.shape[2:]
        band = max(1, self.band_pixels // (4 * width)) if self.band_pixels else rows
        bands = []
        for first in range(0, rows, band):
            above, end = min(first, HALO), min(rows, first + band)
            grown = self.grows[-1](x[:, :, first - above : end + HALO], communicator)
            kept = slice(2 * above, 2 * (above + end - first))
            bands.append([self._exit(frames, communicator)[:, :, kept] for frames in grown])
            del grown  # or two bands would be there while the next one grows
        return [of[0] if len(of) == 1 else torch.cat(of, dim=2) for of in zip(*bands, strict=True)]

    def _enter(
        self, latent: torch.Tensor, condition: torch.Tensor, communicator: Communicator
    ) -> torch.Tensor:
        """[T, 16, h, w] and [4T, 3, tH, tW] -> [T, c0, h, w]."""
        x = self.clamp(decoder_input(latent, condition))
        for conv in self.entry:
            x = conv(x, communicator)
        return x

    def _exit(self, x: torch.Tensor, communicator: Communicator) -> torch.Tensor:
        """[T, c3, tH, tW] -> [T, 3, tH, tW]."""
        return with_halo(self.last, (self.inserted(x, communicator),), communicator)


def decoder_input(latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """`torch.cat([condition_cells(condition), latent], dim=1)` in channels-last memory, moved once."""
    if runs_references():
        return torch.cat([condition_cells(condition), latent], dim=1)
    frames, channels, height, width = latent.shape
    made = latent.new_empty(frames, height, width, CONDITION_CHANNELS + channels)
    cells, rest = made.split([CONDITION_CHANNELS, channels], dim=-1)
    pixels = condition.view(frames, FRAMES_PER_LATENT, 3, height, LATENT_STRIDE, width, LATENT_STRIDE)
    pixels = pixels.permute(0, 3, 5, 2, 1, 4, 6)
    cells.unflatten(-1, pixels.shape[3:]).copy_(pixels)
    rest.copy_(latent.permute(0, 2, 3, 1))
    return made.permute(0, 3, 1, 2)


def rounded(conv: nn.Conv2d, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A convolution's weight by `round_balanced`, and its bias to nearest."""
    bias = conv.bias
    return round_balanced(conv.weight, dtype, dim=1), None if bias is None else bias.to(dtype)


def channels_last(weight: torch.Tensor) -> torch.Tensor:
    """The layout in which convolutions of channels-last features want their weights."""
    return weight.detach().contiguous(memory_format=torch.channels_last)

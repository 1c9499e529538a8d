"""The TC decoder with its linear layers folded: what runs. `decoder.Decoder` is its specification.

Between two groups of MemBlocks stand a nearest 2x upsampling, a 1x1 TGrow and a 3x3 convolution, with no
bias and nothing non-linear between them. Together they are one transposed convolution, which does 4/9 of the
multiplications and never makes the upsampled input.
"""

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.model.decoder import Decoder, MemBlock, TGrow, condition_cells


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


class Grow(nn.Module):
    """To twice the height and width and `stride` times the frames."""

    def __init__(self, tgrow: TGrow, conv: nn.Conv2d) -> None:
        super().__init__()
        self.channels = conv.out_channels
        self.register_buffer("weight", fold_grow(tgrow.conv.weight, conv.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, in, h, w] -> [T*stride, out, 2h, 2w]."""
        grown = F.conv_transpose2d(x, self.weight, stride=2, padding=1)
        return grown.reshape(-1, self.channels, *grown.shape[2:])


class FoldedDecoder(nn.Module):
    """Same inputs, state and outputs as `Decoder`; shares its weights."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        flat = decoder.decoder
        clamp, first, _, second, _ = flat[:5]
        self.clamp = clamp
        self.entry = nn.ModuleList([first, second])
        self.groups = nn.ModuleList(nn.ModuleList(flat[i : i + 3]) for i in (5, 11, 17))
        self.grows = nn.ModuleList(Grow(flat[i], flat[i + 1]) for i in (9, 15, 21))
        self.exit = nn.ModuleList([flat[24], flat[26]])
        self.to(memory_format=torch.channels_last)

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, memory: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `Decoder.forward`."""
        x = torch.cat([condition_cells(condition), latent], dim=1)
        x = self.clamp(x.contiguous(memory_format=torch.channels_last))
        for conv in self.entry:
            x = conv(x).relu_()
        remaining = iter(memory)
        next_memory = []
        for blocks, grow in zip(self.groups, self.grows, strict=True):
            for block in blocks:
                x, carried = run_mem_block(block, x, next(remaining))
                next_memory.append(carried)
            x = grow(x).contiguous(memory_format=torch.channels_last)
        inserted, last = self.exit
        x = inserted(x.relu_()).relu_()
        return last(x), next_memory


def run_mem_block(
    block: MemBlock, x: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`MemBlock.forward` without intermediate copies of its activations."""
    past = torch.cat([memory, x[:-1]])
    conv0, _, conv1, _, conv2 = block.conv
    hidden = conv0(torch.cat([x, past], dim=1)).relu_()
    hidden = conv2(conv1(hidden).relu_())
    return hidden.add_(x).relu_(), x[-1:]

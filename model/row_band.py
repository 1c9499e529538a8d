"""A rank's rows of a frame: what its convolutions and statistics need of the rows of other ranks.

Neighbours trade the rows that a convolution reads beyond its own, one trade for each convolution. Recomputing
them instead would cost more rows than a rank has: the decoder sees 20 latent rows to each side.
"""

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.model.extent import EPSILON, WholeFrame
from flashvsr_trt.model.folded_decoder import FoldedDecoder, Grow
from flashvsr_trt.model.ranks import Ranks

HALO, STATISTICS = "halo", "statistics"


class RowBand(WholeFrame):
    """The rows at hand are this rank's; those of lower ranks are above."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def replicate(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """See `WholeFrame.replicate`; `width` may not be more than the rows of any rank."""
        above, below = self.ranks.swap_rows(x, width, HALO)()
        above = x[:, :, :1].expand(-1, -1, width, -1) if above is None else above
        below = x[:, :, -1:].expand(-1, -1, width, -1) if below is None else below
        return F.pad(torch.cat([above, x, below], dim=2), (width, width, 0, 0), mode="replicate")

    def statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `WholeFrame.statistics`: of the frame, from each rank's count, mean and variance."""
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        count = torch.full_like(mean, x.shape[2] * x.shape[3])
        counts, means, variances = self.ranks.all_gather(
            torch.stack([count, mean, variance]), STATISTICS
        ).unbind(1)
        share = counts / counts.sum(dim=0)
        mean = (share * means).sum(dim=0)
        variance = (share * (variances + (means - mean).square())).sum(dim=0)
        return mean, (variance + EPSILON).sqrt()


class BandConv(nn.Module):
    """A zero-padded 3x3 convolution of this rank's rows.

    A convolution is linear: the neighbours' rows are zeros in the first pass, and what they add to the first
    and last row of the result is added when they have come. Nothing is copied to make room for them.
    """

    def __init__(self, conv: nn.Conv2d, ranks: Ranks) -> None:
        super().__init__()
        self.conv, self.ranks = conv, ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, C, h, w] -> [T, out, h, w]."""
        arrived = self.ranks.swap_rows(x, 1, HALO)
        made = self.conv(x)
        above, below = arrived()
        if above is not None:
            made[:, :, :1] += F.conv2d(above, self.conv.weight[:, :, :1], padding=(0, 1))
        if below is not None:
            made[:, :, -1:] += F.conv2d(below, self.conv.weight[:, :, 2:], padding=(0, 1))
        return made


class BandGrow(nn.Module):
    """`Grow` of this rank's rows, in the manner of `BandConv`."""

    def __init__(self, grow: Grow, ranks: Ranks) -> None:
        super().__init__()
        self.weight, self.channels, self.ranks = grow.weight, grow.channels, ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `Grow.forward`."""
        arrived = self.ranks.swap_rows(x, 1, HALO)
        grown = F.conv_transpose2d(x, self.weight, stride=2, padding=1)
        above, below = arrived()
        if above is not None:
            grown[:, :, :1] += self._edge(above, self.weight[:, :, 3:])
        if below is not None:
            grown[:, :, -1:] += self._edge(below, self.weight[:, :, :1])
        return grown.reshape(-1, self.channels, *grown.shape[2:])

    @staticmethod
    def _edge(row: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose2d(row, weight, stride=2, padding=(0, 1))


def band_decoder(decoder: FoldedDecoder, ranks: Ranks) -> FoldedDecoder:
    """The decoder for this rank's rows: every convolution trades rows. Changes `decoder` itself."""
    for parent in list(decoder.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.Conv2d):
                setattr(parent, name, BandConv(module, ranks))
            elif isinstance(module, Grow):
                setattr(parent, name, BandGrow(module, ranks))
    return decoder

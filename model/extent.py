"""What lies beyond the rows at hand: the frame's edge here, a neighbour's rows where ranks share a frame."""

import torch
import torch.nn.functional as F

EPSILON = 1e-5
"""Added to a variance before its root (official `ColorCorrectorWavelet`)."""


class WholeFrame:
    """The rows at hand are the whole frame. `row_band.RowBand` is the same for a part of one."""

    def replicate(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """[T, C, h, w] -> [T, C, h + 2*width, w + 2*width]: beyond the frame, its edge is repeated."""
        return F.pad(x, (width,) * 4, mode="replicate")

    def statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of each frame and channel of [T, C, h, w]: each [T, C, 1, 1]."""
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        return mean, (variance + EPSILON).sqrt()


WHOLE_FRAME = WholeFrame()

"""The decoder's last convolution, from many channels to three, with a float32 result.

The PyTorch twin here is the specification. bfloat16 holds no more than 8 bits of a frame's values, and the
colour fix that follows multiplies what was lost.
"""

import torch
import torch.nn.functional as F


def conv_to_rgb_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """3x3, zero-padded: [T, C, h, w] -> float32 [T, 3, h, w]; weight [3, C, 3, 3], bias [3]."""
    return F.conv2d(x.float(), weight.float(), bias.float(), padding=1)


def tap_columns(weight: torch.Tensor) -> torch.Tensor:
    """The weight as columns of a matrix product, one per tap and colour: [C, 32], the last five are zero."""
    columns = weight.permute(1, 2, 3, 0).flatten(1)
    return F.pad(columns, (0, 32 - columns.shape[1])).contiguous()

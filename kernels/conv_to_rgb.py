"""The decoder's last convolution, from many channels to three, with a float32 result.

The PyTorch twin here is the specification; `conv_to_rgb` is the form for a CPU. bfloat16 holds no more than
8 bits of a frame's values, and the colour fix that follows multiplies what was lost.
"""

import torch
import torch.nn.functional as F

NEIGHBOURS = 4
"""Pixels of a row that one position of the CPU's convolution makes: 12 of the 16 lanes that oneDNN fills."""


def conv_to_rgb_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """3x3, zero-padded: [T, C, h, w] -> float32 [T, 3, h, w]; weight [3, C, 3, 3], bias [3]."""
    return F.conv2d(x.float(), weight.float(), bias.float(), padding=1)


def tap_columns(weight: torch.Tensor) -> torch.Tensor:
    """The weight as a matrix, a column for each tap and colour: [C, 64], column dy*16 + dx*4 + colour.

    A fourth dy, dx and colour are zeros: powers of two are what a kernel can take apart.
    """
    return F.pad(weight.permute(1, 2, 3, 0), (0, 1, 0, 1, 0, 1)).flatten(1).contiguous()


def neighbour_weight(weight: torch.Tensor) -> torch.Tensor:
    """[3, C, 3, 3] -> [4*3, C, 3, 6]: the weight at four neighbouring columns, zeros elsewhere."""
    places = [F.pad(weight, (left, NEIGHBOURS - 1 - left)) for left in range(NEIGHBOURS)]
    return torch.cat(places).contiguous(memory_format=torch.channels_last)


def conv_to_rgb(x: torch.Tensor, neighbours: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`conv_to_rgb_reference` of a float32 [T, C, h, w], four pixels at a time.

    Three channels alone would fill 3 of oneDNN's 16 lanes.

    Args:
        x: in channels-last memory.
        neighbours: the weight in the form that `neighbour_weight` gives it.
        bias: [3].

    Returns:
        [T, 3, h, w] in channels-last memory.

    Raises:
        ValueError: w is not a multiple of four.
    """
    if x.shape[3] % NEIGHBOURS:
        raise ValueError(f"a width of {x.shape[3]} is not a multiple of {NEIGHBOURS}: pad the frames")
    made = F.conv2d(x, neighbours, bias.repeat(NEIGHBOURS), stride=(1, NEIGHBOURS), padding=1)
    # Channels are (pixel, colour): in channels-last memory the pixels of a row follow each other already.
    pixels = made.permute(0, 2, 3, 1).unflatten(3, (NEIGHBOURS, 3)).flatten(2, 3)
    return pixels.permute(0, 3, 1, 2)

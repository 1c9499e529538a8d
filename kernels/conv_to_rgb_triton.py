"""The kernel form of `conv_to_rgb_reference`: one launch reads the activations once and writes the frames.

Memory decides how long it takes. A matrix product of all taps and the sum of its results would also write and
read 27 float32 values a pixel, nearly as many bytes as 128 bfloat16 channels.

Products and sums are float32. Of random bfloat16 activations of 128 channels the result's mean square error
against float64 is 3e-15 (of that product and sum: 3e-15), where rounding them to bfloat16 cost 3e-6.
"""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.tuning import Setting

DEEPEST = {2: 128, 4: 16}
"""Most channels of one product, by the bytes of a value: float32 values are multiplied in registers."""

SHALLOWEST = 16
"""Fewest channels of one product: tl.dot takes no less."""


def product_depth(channels: int, value_bytes: int) -> int:
    """Channels of one product: all of them at once if there are not too many. A power of two."""
    return min(max(triton.next_power_of_2(channels), SHALLOWEST), DEEPEST[value_bytes])


@triton.jit
def rows_of_taps(products):
    """[PIXELS, 64] products, columns dy*16 + dx*4 + colour -> three [PIXELS, 16], one for each dy."""
    pairs = products.reshape(products.shape[0], 2, 2, 16).permute(0, 3, 1, 2)
    even, odd = tl.split(pairs)
    upper, lower = tl.split(even)
    middle, _ = tl.split(odd)
    return upper, middle, lower


@triton.jit
def sum_neighbours(sums, shift):
    """[PIXELS, 16] sums over rows, columns dx*4 + colour -> [PIXELS, 4] colours; wrong at both ends."""
    pixel = tl.arange(0, sums.shape[0])[:, None] + shift[None, :]
    pixel = tl.minimum(tl.maximum(pixel, 0), sums.shape[0] - 1)
    return tl.sum(tl.gather(sums, pixel, 0).reshape(sums.shape[0], 4, 4), 1)


@triton.jit
def conv_to_rgb_rows(
    x,
    columns,
    bias,
    out,
    height,
    width,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
    PIXELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS rows of PIXELS - 2 columns of one frame, all three colours; a pixel more is read on every side.

    Walks down the rows: each is read once, multiplied by the weights of all taps, and added to the three rows
    of the result that it touches, whose sums stay in registers until they are whole.
    """
    frame = tl.program_id(2).to(tl.int64)
    top = tl.program_id(1).to(tl.int64) * ROWS
    rows = tl.minimum(height - top, ROWS)
    tile_column = tl.arange(0, PIXELS)
    column = tl.program_id(0) * (PIXELS - 2) - 1 + tile_column
    depth = tl.arange(0, DEPTH)
    place = tl.arange(0, 16)
    weights = columns + depth[:, None] * 64 + tl.arange(0, 64)[None, :]
    if CHANNELS <= DEPTH:
        weight = tl.load(weights, mask=depth[:, None] < CHANNELS, other=0.0)

    # The fourth dx has no weights and looks where the first does.
    shift = place // 4 % 3 - 1
    colour = tl.arange(0, 4)[None, :]
    offset = tl.load(bias + colour, mask=colour < 3, other=0.0).to(tl.float32)
    own = (tile_column > 0) & (tile_column < PIXELS - 1)
    own = own[:, None] & (colour < 3)
    target = out + (frame * 3 + colour) * height * width + column[:, None]
    source = x + frame * height * width * CHANNELS + column[:, None] * CHANNELS + depth[None, :]

    above = tl.zeros([PIXELS, 16], tl.float32)
    below = tl.zeros([PIXELS, 16], tl.float32)
    for step in range(rows + 2):
        y = top - 1 + step
        inside = (column >= 0) & (column < tl.where((y >= 0) & (y < height), width, 0))
        products = tl.zeros([PIXELS, 64], tl.float32)
        for first in range(0, CHANNELS, DEPTH):
            known = depth < CHANNELS - first
            if CHANNELS > DEPTH:
                weight = tl.load(weights + first * 64, mask=known[:, None], other=0.0)
            read = inside[:, None] & known[None, :]
            pixels = tl.load(source + y * width * CHANNELS + first, mask=read, other=0.0)
            products = tl.dot(pixels, weight, products, input_precision="ieee")
        upper, middle, lower = rows_of_taps(products)
        made = sum_neighbours(above + lower, shift) + offset
        # The row above the first is not this program's, nor whole.
        written = own & (column[:, None] < tl.where(step > 1, width, 0))
        tl.store(target + (y - 1) * width, made, mask=written)
        above = below + middle
        below = upper


def launch_conv_to_rgb(
    x: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor, setting: Setting
) -> torch.Tensor:
    """`conv_to_rgb_reference` of a weight in the form that `tap_columns` gives it.

    Raises:
        ValueError: x is not in channels-last memory.
    """
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"x {tuple(x.shape)} must be in channels-last memory")
    frames, channels, height, width = x.shape
    out = x.new_empty((frames, 3, height, width), dtype=torch.float32)
    pixels = setting.constants["PIXELS"]
    rows = setting.constants["ROWS"]
    conv_to_rgb_rows[(triton.cdiv(width, pixels - 2), triton.cdiv(height, rows), frames)](
        x,
        columns,
        bias,
        out,
        height,
        width,
        CHANNELS=channels,
        DEPTH=product_depth(channels, x.element_size()),
        PIXELS=pixels,
        ROWS=rows,
        num_warps=setting.num_warps,
        num_stages=setting.num_stages,
    )
    return out

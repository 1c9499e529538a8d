"""The decoder's last convolution, from many channels to three, with a float32 result.

The PyTorch reference here is the specification; `conv_four_pixels` is the form for a CPU. bfloat16 holds no
more than 8 bits of a frame's values, and the colour fix that follows multiplies what was lost.

The kernel reads the activations once and writes the frames: memory decides how long it takes. A matrix
product of all taps and the sum of its results would also write and read 27 float32 values a pixel, nearly as
many bytes as 128 bfloat16 channels.

Products and sums are float32. Of random bfloat16 activations of 128 channels the result's mean square error
against float64 is 3e-15 (of that product and sum: 3e-15), where rounding them to bfloat16 cost 3e-6.
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import kernel_setting, record_call
from flashvsr_trt.kernels.conv_relu import runs_onednn
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting

NEIGHBOURS = 4
"""Pixels of a row that one position of the CPU's convolution makes: 12 of the 16 lanes that oneDNN fills."""

DEEPEST = {2: 128, 4: 16}
"""Most channels of one product, by the bytes of a value: float32 values are multiplied in registers."""

SHALLOWEST = 16
"""Fewest channels of one product: tl.dot takes no less."""


class ConvToRGB(torch.nn.Module):
    """`conv_to_rgb_reference` of a weight [3, C, 3, 3], laid out once, and a bias [3]."""

    weight: torch.Tensor
    bias: torch.Tensor
    columns: torch.Tensor
    neighbours: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", bias.detach())
        self.register_buffer("columns", tap_columns(self.weight), persistent=False)
        self.register_buffer("neighbours", neighbour_weight(self.weight), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, C, h, w] in channels-last memory -> float32 [T, 3, h, w]; in a graph, in the dtype of x.

        Raises:
            ValueError: see `conv_four_pixels`.
        """
        if torch.compiler.is_compiling():
            # Engines have no kernel that widens its sums: wider activations would be written and read.
            return F.conv2d(x, self.weight, self.bias, padding=1)
        if runs_onednn(x):
            record_call("conv_to_rgb", "onednn")
            return conv_four_pixels(x, self.neighbours, self.bias)
        setting = kernel_setting("conv_to_rgb", x)
        if setting is None:
            return conv_to_rgb_reference(x, self.weight, self.bias)
        return launch_conv_to_rgb(x, self.columns, self.bias, setting)


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


def conv_four_pixels(x: torch.Tensor, neighbours: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
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

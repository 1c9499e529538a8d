"""The kernel form of `conv_to_rgb_reference`: every tap's products by one matrix product, then their sum.

A matrix product reads the activations once; a convolution of three outputs would leave the tensor cores idle.
"""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def sum_taps(products, bias, out, height, width, PIXELS: tl.constexpr):
    """PIXELS pixels of one frame, all three colours.

    `products` [taps*3, T*height*width]: row tap*3 + colour is what each pixel adds to its neighbour.
    """
    frame = tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    row = pixel // width
    column = pixel % width
    plane = height * width
    line = tl.num_programs(1).to(tl.int64) * plane
    for colour in tl.static_range(3):
        total = tl.zeros([PIXELS], tl.float32) + tl.load(bias + colour).to(tl.float32)
        for tap in tl.static_range(9):
            y = row + tap // 3 - 1
            x = column + tap % 3 - 1
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            place = line * (tap * 3 + colour) + frame.to(tl.int64) * plane + y * width + x
            total += tl.load(products + place, mask=inside, other=0.0)
        target = (frame * 3 + colour).to(tl.int64) * plane + pixel
        tl.store(out + target, total, mask=pixel < plane)


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
    rows = x.permute(0, 2, 3, 1).view(-1, channels)
    # Pixels innermost: the sum then reads whole lines.
    wide = {"out_dtype": torch.float32} if x.is_cuda and x.dtype != torch.float32 else {}
    products = torch.mm(columns.t(), rows.t(), **wide)
    out = x.new_empty((frames, 3, height, width), dtype=torch.float32)
    size = setting.constants["PIXELS"]
    sum_taps[(triton.cdiv(height * width, size), frames)](
        products,
        bias,
        out,
        height,
        width,
        PIXELS=size,
        num_warps=setting.num_warps,
    )
    return out

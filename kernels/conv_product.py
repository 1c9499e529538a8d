"""A 3x3 convolution of stacked frames as an implicit matrix product.

The PyTorch reference here is the specification. With channels innermost, the pixels that one tap of the
filter reads are rows of a matrix, moved by a fixed number: so a tile is loaded like that of any product,
and nothing is unfolded. cuDNN's own choice is good at some frame sizes and half as fast at others.
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting

GROUP = 8
"""Tiles of pixels that neighbouring programs share with all outputs: what they read stays in the cache."""


def conv_product_reference(stacked: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """stacked [T, in, h+2, w+2] and weight [out, in, 3, 3] -> [T, out, h, w], without padding."""
    return F.conv2d(stacked, weight)


@triton.jit
def conv_product_kernel(
    pixels,
    weights,
    out,
    frames,
    height,
    width,
    inputs,
    outputs,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    MULTIPLIED: tl.constexpr,
):
    """PIXELS pixels of one padded frame, in memory's order, and OUTPUTS output channels.

    `pixels` describes [frames*(h+2)*(w+2), inputs] in tiles of [PIXELS, CHANNELS], `weights`
    [outputs, 9*inputs] in tiles of [OUTPUTS, CHANNELS]. Two columns beyond each line are not stored.
    """
    line = width + 2
    tiles = tl.cdiv(height * line - 2, PIXELS)
    columns = tl.cdiv(outputs, OUTPUTS)
    program = tl.program_id(0)
    group = program // (GROUP * columns)
    rows = tl.minimum(frames * tiles - group * GROUP, GROUP)
    tile = group * GROUP + program % (GROUP * columns) % rows
    output = program % (GROUP * columns) // rows * OUTPUTS
    frame = tile // tiles
    first = tile % tiles * PIXELS
    base = frame * (height + 2) * line + first

    total = tl.zeros([PIXELS, OUTPUTS], tl.float32)
    parts = inputs // CHANNELS
    for step in range(9 * parts):
        tap = step // parts
        channel = (step - tap * parts) * CHANNELS
        read = pixels.load([base + tap // 3 * line + tap % 3, channel]).to(MULTIPLIED)
        factor = weights.load([output, step * CHANNELS]).to(MULTIPLIED)
        total = tl.dot(read, tl.trans(factor), total, input_precision="ieee")

    place = first + tl.arange(0, PIXELS)
    row = place // line
    column = place - row * line
    made = output + tl.arange(0, OUTPUTS)
    inside = ((row < height) & (column < width))[:, None] & (made < outputs)[None, :]
    pixel = ((frame * height + row) * width + column).to(tl.int64)
    target = out + pixel[:, None] * outputs + made[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)


def launch_conv_product(stacked: torch.Tensor, weight: torch.Tensor, setting: Setting) -> torch.Tensor:
    """`conv_product_reference` in one launch, its result in channels-last memory.

    Raises:
        ValueError: a tensor is not in channels-last memory, or `in` is no multiple of the setting's CHANNELS.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    sizes = setting.constants
    layout = torch.channels_last
    if not (stacked.is_contiguous(memory_format=layout) and weight.is_contiguous(memory_format=layout)):
        raise ValueError("stacked frames and weight must be in channels-last memory")
    frames, inputs, height, width = stacked.shape
    if inputs % sizes["CHANNELS"]:
        raise ValueError(f"{inputs} channels are no multiple of {sizes['CHANNELS']}")
    outputs = len(weight)
    size = (frames, outputs, height - 2, width - 2)
    out = torch.empty(size, dtype=stacked.dtype, device=stacked.device, memory_format=layout)
    pixels = stacked.permute(0, 2, 3, 1).flatten(0, 2)
    weights = weight.permute(0, 2, 3, 1).flatten(1)
    tiles = triton.cdiv((height - 2) * width - 2, sizes["PIXELS"])
    conv_product_kernel[(frames * tiles * triton.cdiv(outputs, sizes["OUTPUTS"]),)](
        TensorDescriptor.from_tensor(pixels, [sizes["PIXELS"], sizes["CHANNELS"]]),
        TensorDescriptor.from_tensor(weights, [sizes["OUTPUTS"], sizes["CHANNELS"]]),
        out,
        frames,
        height - 2,
        width - 2,
        inputs,
        outputs,
        **sizes,
        GROUP=GROUP,
        MULTIPLIED=getattr(tl, str(stacked.dtype).removeprefix("torch.")) if stacked.is_cuda else tl.float32,
        num_warps=setting.num_warps,
        num_stages=setting.num_stages,
    )
    return out

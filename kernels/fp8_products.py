"""FP8 products that do more than multiply: the feed-forward's first with GELU, and 3x3 convolutions.

The PyTorch references here are the specification. Scales of what is made, and of pixels, are constants of a
layer: bounds that its weights set (`model/fp8_linear.py`), as no tile of a product has seen a whole row.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import architecture_of, record_call, runs_kernel
from flashvsr_trt.kernels.fp8 import E4M3, Quantised, fp8_product, quantise_rows, to_e4m3
from flashvsr_trt.kernels.optional_triton import triton
from flashvsr_trt.kernels.tuning import Setting, setting_for

DEPTH = 128
"""Values of a row that a step of the kernel sums: as many bytes as shared memory is swizzled by."""


def gelu_product_reference(x: Quantised, weight: Quantised, bias: torch.Tensor, scale: float) -> Quantised:
    """GELU (tanh form) of x weight^T + bias, all in e4m3 with one constant scale.

    Args:
        x: [tokens, in].
        weight: [out, in].
        bias: [out].
        scale: of the result [tokens, out], which is within e4m3's range of it.
    """
    made = F.gelu(F.linear(x.wide(), weight.wide(), bias.float()), approximate="tanh")
    return Quantised.alike(to_e4m3(made / scale), scale)


def gelu_product(x: Quantised, weight: Quantised, bias: torch.Tensor, scale: float) -> Quantised:
    """`gelu_product_reference`, by the kernel where one takes the weight.

    Elsewhere on a GPU GELU is taken after the product, with row scales.
    """
    if not runs_kernel(x.values):
        record_call("fp8_gelu_product", "reference")
        return gelu_product_reference(x, weight, bias, scale)
    (rows, depth), columns = x.values.shape, len(weight.values)
    setting = kernel_taking("fp8_gelu_product", architecture_of(x.values.device), columns, depth)
    if setting is None:
        return quantise_rows(fp8_product(x, weight, bias), gelu=True)
    record_call("fp8_gelu_product", setting.implementation)
    out = x.values.new_empty((rows, columns), dtype=E4M3)
    # fmt: off
    launch(
        setting, x.values, weight.values, x.scale, weight.scale, bias, out, 1 / scale, rows, columns, depth,
        0, 0, 0, depth, BOX_HEIGHT=1, BOX_WIDTH=1, CONVOLUTION=False,
    )
    # fmt: on
    return Quantised.alike(out, scale)


def convolution_reference(x: torch.Tensor, weight: Quantised, dtype: torch.dtype) -> torch.Tensor:
    """A 3x3 convolution without padding.

    Args:
        x: [T, in, h+2, w+2] e4m3 in channels-last memory; its own scale is in the weight's.
        weight: [out, 9*in], (row, column, channel).

    Returns:
        [T, out, h, w] of `dtype` in channels-last memory.
    """
    taps = weight.values.float().unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
    made = F.conv2d(x.float(), taps) * weight.scale[:, :, None]
    return made.to(dtype).contiguous(memory_format=torch.channels_last)


def convolution(x: torch.Tensor, weight: Quantised, dtype: torch.dtype) -> torch.Tensor:
    """`convolution_reference`, by the kernel on a GPU.

    Raises:
        ValueError: no kernel of the GPU takes the weight (`kernel_taking`), or x is not in channels-last
            memory.
    """
    if not runs_kernel(x):
        record_call("fp8_convolution", "reference")
        return convolution_reference(x, weight, dtype)
    frames, channels, height, width = x.shape[0], x.shape[1], x.shape[2] - 2, x.shape[3] - 2
    columns, depth = weight.values.shape
    architecture = architecture_of(x.device)
    setting = kernel_taking("fp8_convolution", architecture, columns, channels)
    if setting is None:
        raise ValueError(f"{architecture} has no FP8 convolution of {channels} channels to {columns}")
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"x {tuple(x.shape)} must have its channels innermost: strides {x.stride()}")
    record_call("fp8_convolution", setting.implementation)
    size = frames, columns, height, width
    out = torch.empty(size, dtype=dtype, device=x.device, memory_format=torch.channels_last)
    box_height, box_width = box_of(setting.constants["ROWS"], height, width)
    # fmt: off
    launch(
        setting, x, weight.values, weight.scale, weight.scale, weight.scale, out, 1.0,
        frames * height * width, columns, depth, frames, height, width, channels,
        BOX_HEIGHT=box_height, BOX_WIDTH=box_width, CONVOLUTION=True,
    )
    # fmt: on
    return out


def kernel_taking(operator: str, architecture: str, outputs: int, inputs: int) -> Setting | None:
    """How an operator's kernel is launched on a weight of so many channels; None where none takes them.

    Only sm_90 has kernels of these products, and they take whole tiles.
    """
    setting = setting_for(operator, architecture)
    if setting.implementation != "hopper":
        return None
    return setting if outputs % setting.constants["COLUMNS"] == 0 and inputs % DEPTH == 0 else None


def box_of(pixels: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a box of so many pixels, of which the fewest cover height x width."""
    square = 1 << (pixels.bit_length() - 1) // 2
    boxes = [(pixels // across, across) for across in (2 * square, square, 4 * square, 8 * square, pixels)]
    return min(boxes, key=lambda box: -(-height // box[0]) * -(-width // box[1]))


def launch(setting: Setting, x: torch.Tensor, *arguments: object, **constants: object) -> None:
    """One program a multiprocessor: each takes tile after tile."""
    from flashvsr_trt.kernels.attention_launch import allocate_scratch
    from flashvsr_trt.kernels.fp8_product_hopper import fp8_product_hopper

    kernel: Any = fp8_product_hopper
    triton.set_allocator(allocate_scratch)
    kernel[(multiprocessors(x.device),)](
        x, *arguments, DEPTH=DEPTH, **setting.constants, **constants, num_warps=setting.num_warps
    )


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count

"""The kernel form of `stack_frames_reference`: one write of the result, whole vectors of channels."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.stack_frames import FRAMES
from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def stack_frames(
    tail,
    x,
    out,
    height,
    width,
    channels,
    FRAMES: tl.constexpr,
    TAIL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """PIXELS pixels and CHANNELS channels of one frame of one output."""
    made = tl.program_id(2) // FRAMES
    part = tl.program_id(2) % FRAMES
    frame = 2 * made + part
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row = tl.minimum(tl.maximum(pixel // (width + 2) - 1, 0), height - 1)
    column = tl.minimum(tl.maximum(pixel % (width + 2) - 1, 0), width - 1)
    pixels = (height + 2) * (width + 2)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    place = (row * width + column).to(tl.int64)[:, None] * channels + channel[None, :]
    plane = frame.to(tl.int64) * (height * width) * channels
    carried = (tl.zeros([PIXELS], tl.int32) + frame < TAIL)[:, None]
    old = tl.load(tail + plane + place, mask=inside & carried, other=0.0)
    before = TAIL * height * width * channels
    new = tl.load(x - before + plane + place, mask=inside & ~carried, other=0.0)
    value = tl.where(carried, old, new)
    target = ((made * pixels + pixel).to(tl.int64) * FRAMES + part)[:, None] * channels + channel[None, :]
    tl.store(out + target, value, mask=inside)


def launch_stack_frames(tail: torch.Tensor, x: torch.Tensor, setting: Setting) -> torch.Tensor:
    """`stack_frames_reference` in one launch: arguments and results are its.

    Raises:
        ValueError: a tensor is not contiguous.
    """
    if not (tail.is_contiguous() and x.is_contiguous()):
        raise ValueError("tail and x must be contiguous")
    count, height, width, channels = x.shape
    outputs = count // 2
    out = x.new_empty((outputs, height + 2, width + 2, FRAMES * channels))
    sizes = setting.constants
    pixels = (height + 2) * (width + 2)
    grid = (triton.cdiv(pixels, sizes["PIXELS"]), triton.cdiv(channels, sizes["CHANNELS"]), outputs * FRAMES)
    stack_frames[grid](
        tail,
        x,
        out,
        height,
        width,
        channels,
        FRAMES=FRAMES,
        TAIL=len(tail),
        **sizes,
        num_warps=setting.num_warps,
    )
    return out

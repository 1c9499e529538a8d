"""The kernel form of `stack_frames_reference`: each frame is read once, whole vectors of channels."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.stack_frames import FRAMES
from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def stack_frames(
    tail,
    x,
    first,
    out,
    height,
    width,
    channels,
    outputs,
    FRAMES: tl.constexpr,
    TAIL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """PIXELS pixels and CHANNELS channels of one frame, into the two outputs that see it."""
    frame = tl.program_id(2)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row = tl.minimum(tl.maximum(pixel // (width + 2) - 1, 0), height - 1)
    column = tl.minimum(tl.maximum(pixel % (width + 2) - 1, 0), width - 1)
    pixels = (height + 2) * (width + 2)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    place = (row * width + column).to(tl.int64)[:, None] * channels + channel[None, :]
    before = frame.to(tl.int64) * (height * width) * channels
    plane = tl.maximum(frame - TAIL, 0).to(tl.int64) * (height * width) * channels
    # Read from memory: a captured graph is replayed for starting and for running clips alike.
    starts = tl.load(first)
    if (frame < TAIL) & (starts == 0):
        value = tl.load(tail + before + place, mask=inside, other=0.0)
    else:
        value = tl.load(x + plane + place, mask=inside, other=0.0)
    made = frame // 2
    part = frame % 2
    line = made.to(tl.int64) * pixels + pixel
    if made < outputs:
        target = (line * FRAMES + part)[:, None] * channels + channel[None, :]
        tl.store(out + target, value, mask=inside)
    if made > 0:
        target = ((line - pixels) * FRAMES + part + 2)[:, None] * channels + channel[None, :]
        tl.store(out + target, value, mask=inside)


def launch_stack_frames(
    tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor, setting: Setting
) -> torch.Tensor:
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
    grid = (
        triton.cdiv(pixels, sizes["PIXELS"]),
        triton.cdiv(channels, sizes["CHANNELS"]),
        len(tail) + count,
    )
    stack_frames[grid](
        tail,
        x,
        first,
        out,
        height,
        width,
        channels,
        outputs,
        FRAMES=FRAMES,
        TAIL=len(tail),
        **sizes,
        num_warps=setting.num_warps,
    )
    return out

"""What a causal convolution reads: the four frames of each output side by side, edges repeated.

The PyTorch reference here is the specification. The kernel reads each frame once, in whole vectors of
channels.
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.fp8 import kept_dtype, rounded, to_e4m3
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting

FRAMES = 4
"""Frames that a causal convolution sees; it moves by two."""


def stack_frames_reference(
    tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """tail [2, C, h, w] and x [T, C, h, w], T even -> [T/2, 4*C, h+2, w+2], frames outside channels.

    Where `first`, a bool scalar, is set, a clip starts: copies of x's first frame take the tail's place.
    With a `scale` the result is in e4m3: numbers that times it are what is stacked.
    """
    frames = torch.cat([torch.where(first, x[:1], tail), x])
    frames = F.pad(frames, (1,) * 4, mode="replicate")
    stacked = torch.cat([frames[:-2:2], frames[1:-1:2], frames[2::2], frames[3::2]], dim=1)
    return stacked if scale is None else to_e4m3(stacked.float() / scale)


@triton.jit
def stack_frames_kernel(
    tail,
    x,
    first,
    out,
    height,
    width,
    channels,
    outputs,
    inverse,
    FRAMES: tl.constexpr,
    TAIL: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    QUANTISED: tl.constexpr,
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
    if QUANTISED:
        value = (value.to(tl.float32) * inverse).to(out.dtype.element_ty)
    made = frame // 2
    part = frame % 2
    line = made.to(tl.int64) * pixels + pixel
    if made < outputs:
        target = (line * FRAMES + part)[:, None] * channels + channel[None, :]
        tl.store(out + target, value, mask=inside)
    if made > 0:
        target = ((line - pixels) * FRAMES + part + 2)[:, None] * channels + channel[None, :]
        tl.store(out + target, value, mask=inside)


def stack_frames(
    tail: torch.Tensor,
    x: torch.Tensor,
    first: torch.Tensor,
    scale: float | None = None,
    setting: Setting | None = None,
) -> torch.Tensor:
    """`stack_frames_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernel is to read x, which is not in channels-last memory.
    """
    setting = setting or kernel_setting("stack_frames", x)
    if setting is None:
        return stack_frames_reference(tail, x, first, scale)
    layout = torch.channels_last
    if not x.is_contiguous(memory_format=layout):
        raise ValueError(f"x {tuple(x.shape)} must be in channels-last memory")
    tail = tail.contiguous(memory_format=layout)
    count, channels, height, width = x.shape
    outputs = count // 2
    size = (outputs, FRAMES * channels, height + 2, width + 2)
    dtype = x.dtype if scale is None else kept_dtype(x)
    out = torch.empty(size, dtype=dtype, device=x.device, memory_format=layout)
    sizes = setting.constants
    pixels = (height + 2) * (width + 2)
    grid = (
        triton.cdiv(pixels, sizes["PIXELS"]),
        triton.cdiv(channels, sizes["CHANNELS"]),
        len(tail) + count,
    )
    stack_frames_kernel[grid](
        tail,
        x,
        first,
        out,
        height,
        width,
        channels,
        outputs,
        1 / (scale or 1),
        FRAMES=FRAMES,
        TAIL=len(tail),
        QUANTISED=scale is not None,
        **sizes,
        num_warps=setting.num_warps,
    )
    return out if scale is None else rounded(out)

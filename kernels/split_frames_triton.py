"""The kernel form of `split_frames_reference`: one read and one write, whole vectors of channels."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def split_frames(
    grown,
    out,
    pixels,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    VALUES: tl.constexpr,
):
    """PIXELS pixels of one of the frames that a grown frame holds, as VALUES >= PIXELS * CHANNELS values."""
    frame = tl.program_id(1)
    # One index for both: any number of channels fills the lanes, and runs of channels stay whole vectors.
    value = tl.arange(0, VALUES)
    pixel = tl.program_id(0) * PIXELS + value // CHANNELS
    channel = value % CHANNELS
    inside = (value < PIXELS * CHANNELS) & (pixel < pixels)
    held = frame // FRAMES
    part = frame % FRAMES
    source = ((held * pixels + pixel).to(tl.int64) * FRAMES + part) * CHANNELS + channel
    moved = tl.load(grown + source, mask=inside, other=0.0)
    if RELU:
        moved = tl.maximum(moved, 0.0)
    target = (frame.to(tl.int64) * pixels + pixel) * CHANNELS + channel
    tl.store(out + target, moved, mask=inside)


def launch_split_frames(grown: torch.Tensor, frames: int, relu: bool, setting: Setting) -> torch.Tensor:
    """`split_frames_reference` in one launch: arguments and results are its.

    Raises:
        ValueError: `grown` is not in channels-last memory.
    """
    held, channels, height, width = grown.shape
    channels //= frames
    if not grown.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"grown {tuple(grown.shape)} must be in channels-last memory")
    out = torch.empty(
        (held * frames, channels, height, width),
        dtype=grown.dtype,
        device=grown.device,
        memory_format=torch.channels_last,
    )
    pixels = height * width
    # Launch sizes are per value, so that few and many channels fill a program alike.
    size = max(1, setting.constants["VALUES"] // channels)
    split_frames[(triton.cdiv(pixels, size), held * frames)](
        grown,
        out,
        pixels,
        FRAMES=frames,
        CHANNELS=channels,
        RELU=relu,
        PIXELS=size,
        VALUES=triton.next_power_of_2(size * channels),
        num_warps=setting.num_warps,
    )
    return out

"""Channels that hold several consecutive frames become frames of their own.

The PyTorch reference here is the specification (what follows a `TGrow` of the TC decoder). The kernel takes
one read and one write, of whole vectors of channels.
"""

import torch

from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting


def split_frames_reference(grown: torch.Tensor, frames: int, relu: bool) -> torch.Tensor:
    """[T, frames*C, h, w] -> [T*frames, C, h, w] in channels-last memory; `relu` on the way."""
    if torch.compiler.is_compiling():
        # A graph's compiler chooses memory itself.
        parts = grown.reshape(-1, grown.shape[1] // frames, *grown.shape[2:])
        return parts.relu() if relu else parts
    parts = grown.permute(0, 2, 3, 1).unflatten(-1, (frames, -1)).permute(0, 3, 1, 2, 4)
    split = torch.empty(parts.shape, dtype=grown.dtype, device=grown.device)
    # One pass: taking the parts apart and putting channels innermost would be two.
    torch.clamp_min(parts, 0.0, out=split) if relu else split.copy_(parts)
    return split.flatten(0, 1).permute(0, 3, 1, 2)


@triton.jit
def split_frames_kernel(
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


def split_frames(
    grown: torch.Tensor, frames: int, relu: bool = False, setting: Setting | None = None
) -> torch.Tensor:
    """`split_frames_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernel is to read `grown`, which is not in channels-last memory.
    """
    if frames == 1:
        return grown.relu_() if relu else grown
    setting = setting or kernel_setting("split_frames", grown)
    if setting is None:
        return split_frames_reference(grown, frames, relu)
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
    split_frames_kernel[(triton.cdiv(pixels, size), held * frames)](
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

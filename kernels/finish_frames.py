"""From decoded frames to pixels: AdaIN against the upscaled frames, clamp, uint8.

The PyTorch reference here is the specification (official `_adain` of TCDecoder, and the script's conversion).
Of the two kernels one makes the statistics, the other the pixels.
"""

import torch

from flashvsr_trt.config.pictures import EPSILON
from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting


def finish_frames_reference(frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Gives each frame and channel the mean and deviation of the reference, then makes bytes.

    Args:
        frames: [T, 3, H, W] in about [0, 1], as the decoder makes them.
        reference: [T, 3, H, W] in about [-1, 1].

    Returns:
        [T, H, W, 3] uint8, truncated as the official script does.
    """
    frames, reference = frames.float() * 2 - 1, reference.float()
    mean, wanted_mean = (x.mean(dim=(-2, -1), keepdim=True) for x in (frames, reference))
    deviation, wanted_deviation = (
        (x.var(dim=(-2, -1), correction=0, keepdim=True) + EPSILON).sqrt() for x in (frames, reference)
    )
    matched = (frames - mean) / deviation * wanted_deviation + wanted_mean
    return ((matched.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@triton.jit
def _signed(value):
    """From about [0, 1] to about [-1, 1], float32."""
    return value.to(tl.float32) * 2 - 1


@triton.jit
def frame_statistics(frames, reference, statistics, pixels, PIXELS: tl.constexpr):
    """Mean and sum of squared deviations of one piece of one plane, of the frames and of the reference."""
    plane = tl.program_id(0)
    piece = tl.program_id(1)
    pieces = tl.num_programs(1)
    offset = piece * PIXELS + tl.arange(0, PIXELS)
    inside = offset < pixels
    held = tl.minimum(pixels - piece * PIXELS, PIXELS).to(tl.float32)
    place = plane.to(tl.int64) * pixels + offset
    out = statistics + (plane * pieces + piece) * 4
    value = tl.where(inside, _signed(tl.load(frames + place, mask=inside, other=0.0)), 0.0)
    mean = tl.sum(value) / held
    centred = tl.where(inside, value - mean, 0.0)
    tl.store(out, mean)
    tl.store(out + 1, tl.sum(centred * centred))
    value = tl.load(reference + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value) / held
    centred = tl.where(inside, value - mean, 0.0)
    tl.store(out + 2, mean)
    tl.store(out + 3, tl.sum(centred * centred))


@triton.jit
def _combine(statistics, held, exists, pixels, EPSILON: tl.constexpr):
    """Mean and deviation of a plane from those of its pieces (Chan et al., pairwise variance)."""
    means = tl.load(statistics, mask=exists, other=0.0)
    squares = tl.load(statistics + 1, mask=exists, other=0.0)
    mean = tl.sum(means * held) / pixels
    apart = means - mean
    variance = (tl.sum(squares) + tl.sum(held * apart * apart)) / pixels
    return mean, tl.sqrt(variance + EPSILON)


@triton.jit
def finish_frames_kernel(
    frames,
    reference_statistics,
    out,
    pixels,
    pieces,
    PIXELS: tl.constexpr,
    PIECES: tl.constexpr,
    EPSILON: tl.constexpr,
):
    """One piece of one frame, all three channels."""
    frame = tl.program_id(0)
    piece = tl.program_id(1)
    offset = piece * PIXELS + tl.arange(0, PIXELS)
    inside = offset < pixels
    part = tl.arange(0, PIECES)
    exists = part < pieces
    held = tl.where(exists, tl.minimum(pixels - part * PIXELS, PIXELS), 0).to(tl.float32)
    for channel in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues] - unrolled by Triton
        plane = frame * 3 + channel
        line = reference_statistics + (plane * pieces + part) * 4
        mean, deviation = _combine(line, held, exists, pixels, EPSILON)
        wanted_mean, wanted_deviation = _combine(line + 2, held, exists, pixels, EPSILON)
        value = _signed(tl.load(frames + plane.to(tl.int64) * pixels + offset, mask=inside, other=0.0))
        matched = (value - mean) / deviation * wanted_deviation + wanted_mean
        matched = tl.minimum(tl.maximum(matched, -1.0), 1.0)
        byte = ((matched + 1) * 127.5).to(tl.uint8)
        tl.store(out + (frame.to(tl.int64) * pixels + offset) * 3 + channel, byte, mask=inside)


def finish_frames(
    frames: torch.Tensor, reference: torch.Tensor, setting: Setting | None = None
) -> torch.Tensor:
    """`finish_frames_reference`, by the kernels where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernels are to read a tensor that is not contiguous, or the shapes differ.
    """
    setting = setting or kernel_setting("finish_frames", frames)
    if setting is None:
        return finish_frames_reference(frames, reference)
    if frames.shape != reference.shape or not (frames.is_contiguous() and reference.is_contiguous()):
        raise ValueError(f"frames {tuple(frames.shape)} and reference must be contiguous and of one shape")
    count, channels, height, width = frames.shape
    pixels = height * width
    size = setting.constants["PIXELS"]
    pieces = triton.cdiv(pixels, size)
    statistics = frames.new_empty((count * channels, pieces, 4), dtype=torch.float32)
    out = frames.new_empty((count, height, width, channels), dtype=torch.uint8)
    frame_statistics[(count * channels, pieces)](
        frames, reference, statistics, pixels, PIXELS=size, num_warps=setting.num_warps
    )
    finish_frames_kernel[(count, pieces)](
        frames,
        statistics,
        out,
        pixels,
        pieces,
        PIXELS=size,
        PIECES=triton.next_power_of_2(pieces),
        EPSILON=EPSILON,
        num_warps=setting.num_warps,
    )
    return out

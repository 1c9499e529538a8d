"""Bicubic upscaling of 8-bit frames and the fit to the network's target size."""

import torch
import torch.nn.functional as F

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.signatures import UPSAMPLERS

TAPS = 4
FIXED_POINT_BITS = 22
"""Fraction bits of PIL's 8-bit resampling weights (Pillow `Resample.c`, PRECISION_BITS)."""


def first_tap(phase: int, scale: int) -> int:
    """Offset from a source pixel to the first of the four taps of its output `phase`."""
    return (2 * phase + 1 - scale) // (2 * scale) - 1


def bicubic_weights(size: int, phase: int, scale: int) -> torch.Tensor:
    """PIL's fixed-point weights [4, size] int32 of one output phase, a = -0.5.

    Taps outside the image weigh nothing and the others are renormalised, as PIL does at borders.
    """
    source = torch.arange(size, dtype=torch.float64)
    centre = (phase + 0.5) / scale - 0.5
    offsets = first_tap(phase, scale) + torch.arange(TAPS, dtype=torch.float64)
    distance = (offsets - centre).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, far)[:, None]
    position = source + offsets[:, None]
    weights = torch.where((position >= 0) & (position < size), weights, 0.0)
    # Multiplied by the reciprocal, as PIL does: a quotient can round the other way.
    fixed = weights * (1 / weights.sum(dim=0)) * 2**FIXED_POINT_BITS
    return torch.trunc(fixed + torch.where(fixed < 0, -0.5, 0.5)).to(torch.int32)


def bicubic_table(size: int, scale: int) -> torch.Tensor:
    """`bicubic_weights` of every phase: [scale, 4, size] int32, on the CPU."""
    return torch.stack([bicubic_weights(size, phase, scale) for phase in range(scale)])


def upsample_axis_8bit(x: torch.Tensor, table: torch.Tensor, dim: int) -> torch.Tensor:
    """Bicubic along one axis, rounded and clamped to 0..255; int32 in and out, exact as PIL's.

    `table` is the axis's `bicubic_table`, on the device of x.
    """
    scale = len(table)
    size = x.shape[dim]
    low, high = -first_tap(0, scale), first_tap(scale - 1, scale) + TAPS - 1
    padded = F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [low, high])
    column = [1] * x.ndim
    column[dim] = size
    phases = []
    for phase in range(scale):
        start = low + first_tap(phase, scale)
        total = sum(
            padded.narrow(dim, start + tap, size) * table[phase, tap].view(column) for tap in range(TAPS)
        )
        phases.append(total)
    total = torch.stack(phases, dim=dim + 1).flatten(dim, dim + 1) + (1 << (FIXED_POINT_BITS - 1))
    # Truncating instead of shifting differs below zero only, where both clamp to zero.
    return total.div(1 << FIXED_POINT_BITS, rounding_mode="trunc").clamp(0, 255)


def upsample(
    frames: torch.Tensor,
    scale: int,
    upsampler: str = "pil",
    tables: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Frames [T, H, W, 3] uint8 -> [T, 3, H*scale, W*scale] float32, about [-1, 1].

    `pil` equals PIL's BICUBIC resize bit for bit (horizontal pass first, 8 bits between the passes).
    `tables` are the `bicubic_table` of height and width on the frames' device, for who keeps them.
    """
    # Engines take bytes only through a cast that comes first.
    pixels = frames.float().permute(0, 3, 1, 2)
    if upsampler == "torch":
        return F.interpolate(pixels / 127.5 - 1, scale_factor=scale, mode="bicubic", align_corners=False)
    if upsampler != "pil":
        raise ValueError(f"upsampler '{upsampler}' is not one of {UPSAMPLERS}")
    if tables is None:
        tables = tuple(bicubic_table(size, scale).to(frames.device) for size in frames.shape[1:3])
    rows, columns = tables
    wide = upsample_axis_8bit(pixels.to(torch.int32), columns, dim=3)
    return upsample_axis_8bit(wide, rows, dim=2).float() / 127.5 - 1


def fit_to_target(upscaled: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """[T, 3, H*scale, W*scale] -> [T, 3, tH, tW]: replicate the last row and column, or centre-crop."""
    height, width = geometry.upscaled
    target_height, target_width = geometry.target
    if geometry.fit == "crop":
        top, left = geometry.crop_corner
        return upscaled[:, :, top : top + target_height, left : left + target_width]
    pad = (0, target_width - width, 0, target_height - height)
    return F.pad(upscaled, pad, mode="replicate") if any(pad) else upscaled

"""Bicubic upscaling of 8-bit frames and the fit to the network's target size."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.pictures import FIXED_POINT_BITS, TAPS, bicubic_weights, first_tap
from flashvsr_trt.config.presets import TOKEN_STRIDE
from flashvsr_trt.config.signatures import UPSAMPLERS, StreamConfig
from flashvsr_trt.kernels.calls import kernel_setting, runs_kernel
from flashvsr_trt.model.fused_projector import unshuffle


def bicubic_table(size: int, scale: int) -> torch.Tensor:
    """`bicubic_weights` of every phase: [scale, 4, size] int32, on the CPU."""
    return torch.from_numpy(np.stack([bicubic_weights(size, phase, scale) for phase in range(scale)]))


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
    if scale == 1:  # tiles of frames that are upscaled already
        return pixels / 127.5 - 1
    if upsampler == "torch":
        return F.interpolate(pixels / 127.5 - 1, scale_factor=scale, mode="bicubic", align_corners=False)
    if upsampler != "pil":
        raise ValueError(f"upsampler '{upsampler}' is not one of {UPSAMPLERS}")
    if tables is None:
        rows, columns = (bicubic_table(size, scale).to(frames.device) for size in frames.shape[1:3])
    else:
        rows, columns = tables
    wide = upsample_axis_8bit(pixels.to(torch.int32), columns, dim=3)
    return upsample_axis_8bit(wide, rows, dim=2).float() / 127.5 - 1


def fit_to_target(upscaled: torch.Tensor, corner: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """[T, 3, h, w] -> [T, 3, *target]: from `corner` on, and the last row and column again beyond them."""
    (top, left), (height, width) = corner, target
    if corner != (0, 0) or height < upscaled.shape[2] or width < upscaled.shape[3]:
        upscaled = upscaled[:, :, top : top + height, left : left + width]
    pad = (0, width - upscaled.shape[3], 0, height - upscaled.shape[2])
    return F.pad(upscaled, pad, mode="replicate") if any(pad) else upscaled


class Upscaler(nn.Module):
    """LR frames to the network's target, as frames and as the projector's pixels.

    Args:
        stream: has the scale and the upsampler.
        device: of the frames.
        rows: of the LR frames; fewer than the stream's where this is a rank's part of them.
        corner: row and column of the upscaled frames that the target starts at.
        target: height and width of the result; the stream's, or a rank's rows of it.
    """

    row_table: torch.Tensor
    column_table: torch.Tensor

    def __init__(
        self,
        stream: StreamConfig,
        device: torch.device,
        rows: int | None = None,
        corner: tuple[int, int] | None = None,
        target: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        geometry = stream.geometry
        self.scale, self.upsampler = geometry.scale, stream.upsampler
        self.corner, self.target = corner or geometry.crop_corner, target or geometry.target
        # Kept on the device: copying them there in every call could not be captured in a CUDA graph.
        for axis, size in (("row", rows or geometry.height), ("column", geometry.width)):
            self.register_buffer(f"{axis}_table", bicubic_table(size, self.scale).to(device))

    def forward(
        self, frames: torch.Tensor, dtype: torch.dtype, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One kernel where there is a GPU and the upsampler is the official one.

        Args:
            frames: uint8 [T, H, W, 3].
            dtype: of the network.
            out: float32 [T, 3, *target], in which the upscaled frames are made if it is given.

        Returns:
            The upscaled frames, about [-1, 1], and the pixels, `unshuffle` of them in `dtype`.
        """
        tables = self.row_table, self.column_table
        has_kernel = self.upsampler == "pil" and self.scale > 1 and runs_kernel(frames)
        setting = kernel_setting("upsample_frames", frames) if has_kernel else None
        if setting is None:
            upscaled = upsample(frames, self.scale, self.upsampler, tables)
            upscaled = fit_to_target(upscaled, self.corner, self.target)
            upscaled = upscaled if out is None else out.copy_(upscaled)
            return upscaled, unshuffle(upscaled.to(dtype))
        from flashvsr_trt.kernels.upsample_triton import launch_upsample_frames

        if out is None:
            out = frames.new_empty((len(frames), 3, *self.target), dtype=torch.float32)
        pixels = launch_upsample_frames(
            frames, tables, self.corner, FIXED_POINT_BITS, TOKEN_STRIDE, out, dtype, setting
        )
        return out, pixels.permute(0, 3, 1, 2)

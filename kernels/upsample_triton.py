"""PIL's 8-bit bicubic upscaling in one launch; its twin is `model.upsample.upsample` and `fit_to_target`."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def _round_8bit(total, BITS: tl.constexpr):
    """A fixed-point sum as a byte's value, as PIL rounds and clamps it."""
    rounded = (total + (1 << (BITS - 1))) >> BITS
    return tl.minimum(tl.maximum(rounded, 0), 255)


@triton.jit
def upsample_frames(
    frames,
    row_table,
    column_table,
    out,
    height,
    width,
    out_height,
    out_width,
    top,
    left,
    SCALE: tl.constexpr,
    BITS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """PIXELS pixels of one upscaled frame, all three colours.

    Columns first, rounded to 8 bits, then rows, as PIL does. Beyond the upscaled frame its edge is repeated.
    """
    frame = tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    out_row = pixel // out_width
    out_column = pixel % out_width
    y = tl.minimum(out_row + top, height * SCALE - 1)
    x = tl.minimum(out_column + left, width * SCALE - 1)
    row_phase = y % SCALE
    row = y // SCALE
    phase = x % SCALE
    column = x // SCALE
    # As `model.upsample.first_tap`, of which the dividend is made positive: this division truncates.
    first_row = row + (2 * row_phase + 1 + SCALE) // (2 * SCALE) - 2
    first_column = column + (2 * phase + 1 + SCALE) // (2 * SCALE) - 2
    exists = pixel < out_height * out_width
    for colour in tl.static_range(3):
        total = tl.zeros([PIXELS], tl.int32)
        for row_tap in tl.static_range(4):
            source_row = first_row + row_tap
            line = (frame * height + source_row).to(tl.int64) * width
            wide = tl.zeros([PIXELS], tl.int32)
            for tap in tl.static_range(4):
                source = first_column + tap
                inside = exists & (source >= 0) & (source < width)
                inside = inside & (source_row >= 0) & (source_row < height)
                value = tl.load(frames + (line + source) * 3 + colour, mask=inside, other=0).to(tl.int32)
                weight = tl.load(column_table + (phase * 4 + tap) * width + column, mask=exists, other=0)
                wide += value * weight
            weight = tl.load(row_table + (row_phase * 4 + row_tap) * height + row, mask=exists, other=0)
            total += _round_8bit(wide, BITS) * weight
        value = tl.div_rn(_round_8bit(total, BITS).to(tl.float32), 127.5) - 1
        target = (frame * 3 + colour).to(tl.int64) * (out_height * out_width) + pixel
        tl.store(out + target, value, mask=exists)


def launch_upsample_frames(
    frames: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    target: tuple[int, int],
    corner: tuple[int, int],
    bits: int,
    setting: Setting,
) -> torch.Tensor:
    """Frames to a target size, in one launch.

    Args:
        frames: uint8 [T, H, W, 3], contiguous.
        tables: the bicubic tables of rows and of columns, int32 [scale, 4, H] and [scale, 4, W].
        target: height and width of the result.
        corner: row and column of the upscaled frame that the result starts at.
        bits: fraction bits of the tables.

    Returns:
        float32 [T, 3, *target], about [-1, 1].
    """
    count, height, width, _ = frames.shape
    rows, columns = tables
    out = frames.new_empty((count, 3, *target), dtype=torch.float32)
    size = setting.constants["PIXELS"]
    upsample_frames[(triton.cdiv(target[0] * target[1], size), count)](
        frames,
        rows,
        columns,
        out,
        height,
        width,
        *target,
        *corner,
        SCALE=len(rows),
        BITS=bits,
        PIXELS=size,
        num_warps=setting.num_warps,
    )
    return out

"""PIL's 8-bit bicubic upscaling in one launch, as frames and as the projector's pixels.

Its references are `upsample` and `fit_to_target` of `model.upsample`, and `model.fused_projector.unshuffle`.
"""

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
def _level(value):
    """value / 127.5 - 1 of a byte's value, without dividing.

    257 / 2**15 is the quotient's first term and its product exact: the sum of both rounds as the
    quotient does, fused or not.
    """
    value = value.to(tl.float32)
    return (value * (257 / 2**15) + value * (1 / 127.5 - 257 / 2**15)) - 1


@triton.jit
def _along_row(line, first, width, weights, BITS: tl.constexpr):
    """A source row upscaled along the columns. Taps beyond the frame weigh nothing: any pixel serves."""
    weight0, weight1, weight2, weight3 = weights
    total = tl.load(line + tl.maximum(first, 0) * 3).to(tl.int32) * weight0
    total += tl.load(line + tl.maximum(first + 1, 0) * 3).to(tl.int32) * weight1
    total += tl.load(line + tl.minimum(first + 2, width - 1) * 3).to(tl.int32) * weight2
    total += tl.load(line + tl.minimum(first + 3, width - 1) * 3).to(tl.int32) * weight3
    return _round_8bit(total, BITS)


@triton.jit
def upsample_frames(
    frames,
    row_table,
    column_table,
    out,
    pixels,
    height,
    width,
    out_height,
    out_width,
    top,
    left,
    SCALE: tl.constexpr,
    BITS: tl.constexpr,
    CELL: tl.constexpr,
    ROWS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """PIXELS columns of one colour of one upscaled frame, as many rows as ROWS source rows make.

    Columns first, rounded to 8 bits, then rows, as PIL does: five upscaled source rows are kept, and each
    next one is made once. Beyond the upscaled frame its edge is repeated.
    """
    frame = tl.program_id(2) // 3
    colour = tl.program_id(2) % 3
    start = top // SCALE + tl.program_id(1) * ROWS
    out_column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    x = tl.minimum(out_column + left, width * SCALE - 1)
    column = x // SCALE
    phase = x % SCALE
    # As `config.pictures.first_tap`, of which the dividend is made positive: this division truncates.
    first = column + (2 * phase + 1 + SCALE) // (2 * SCALE) - 2
    table = column_table + phase * 4 * width + column
    weights = tl.load(table), tl.load(table + width), tl.load(table + 2 * width), tl.load(table + 3 * width)

    source = frames + frame.to(tl.int64) * height * width * 3 + colour
    centre = tl.minimum(start, height - 1)
    row0 = _along_row(source + tl.maximum(centre - 2, 0) * width * 3, first, width, weights, BITS)
    row1 = _along_row(source + tl.maximum(centre - 1, 0) * width * 3, first, width, weights, BITS)
    row2 = _along_row(source + centre * width * 3, first, width, weights, BITS)
    row3 = _along_row(source + tl.minimum(centre + 1, height - 1) * width * 3, first, width, weights, BITS)

    plane = out + tl.program_id(2).to(tl.int64) * out_height * out_width + out_column
    cells = pixels + frame.to(tl.int64) * out_height * out_width * 3
    cells += (out_column // CELL) * (3 * CELL * CELL) + colour * CELL * CELL + out_column % CELL
    for row in range(start, start + ROWS):
        centre = tl.minimum(row, height - 1)
        line = source + tl.minimum(centre + 2, height - 1) * width * 3
        row4 = _along_row(line, first, width, weights, BITS)
        # The last phase first: it is what rows beyond the frame repeat.
        last = row4
        for row_phase in tl.static_range(SCALE - 1, -1, -1):
            taps = row_table + row_phase * 4 * height + centre
            tap0 = tl.load(taps)
            tap1 = tl.load(taps + height)
            tap2 = tl.load(taps + 2 * height)
            tap3 = tl.load(taps + 3 * height)
            if (2 * row_phase + 1 + SCALE) // (2 * SCALE) == 0:
                total = row0 * tap0 + row1 * tap1 + row2 * tap2 + row3 * tap3
            else:
                total = row1 * tap0 + row2 * tap1 + row3 * tap2 + row4 * tap3
            value = _round_8bit(total, BITS)
            if row_phase == SCALE - 1:
                last = value
            else:
                value = tl.where(row < height, value, last)
            level = _level(value)
            out_row = row * SCALE + row_phase - top
            stored = out_column < tl.where((out_row >= 0) & (out_row < out_height), out_width, 0)
            tl.store(plane + out_row * out_width, level, mask=stored)
            cell_row = (out_row // CELL) * CELL * out_width * 3 + out_row % CELL * CELL
            tl.store(cells + cell_row, level.to(pixels.dtype.element_ty), mask=stored)
        if row + 1 < height:
            row0 = row1
            row1 = row2
            row2 = row3
            row3 = row4


def launch_upsample_frames(
    frames: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    corner: tuple[int, int],
    bits: int,
    cell: int,
    out: torch.Tensor,
    dtype: torch.dtype,
    setting: Setting,
) -> torch.Tensor:
    """Frames to a target size, in one launch.

    Args:
        frames: uint8 [T, H, W, 3], contiguous.
        tables: the bicubic tables of rows and of columns, int32 [scale, 4, H] and [scale, 4, W].
        corner: row and column of the upscaled frame that the result starts at.
        bits: fraction bits of the tables.
        cell: pixels on each side of what becomes one place when it is unshuffled.
        out: float32 [T, 3, tH, tW], contiguous, tH and tW multiples of `cell`; the result, about [-1, 1].
        dtype: of the network.

    Returns:
        The result rounded to `dtype` and unshuffled, [T, tH/cell, tW/cell, 3*cell*cell].

    Raises:
        ValueError: a tensor is not contiguous.
    """
    if not (frames.is_contiguous() and out.is_contiguous()):
        raise ValueError("frames and out must be contiguous")
    count, height, width, _ = frames.shape
    target = out.shape[2:]
    rows, columns = tables
    scale, top = len(rows), corner[0]
    cells = tuple(side // cell for side in target)
    pixels = frames.new_empty((count, *cells, 3 * cell**2), dtype=dtype)
    size = setting.constants["PIXELS"]
    # A program makes as many rows as a cell has: the four rows upscaled ahead of the first are then few.
    source_rows = cell // scale
    touched = triton.cdiv(top + target[0], scale) - top // scale
    upsample_frames[(triton.cdiv(target[1], size), triton.cdiv(touched, source_rows), count * 3)](
        frames,
        rows,
        columns,
        out,
        pixels,
        height,
        width,
        *target,
        *corner,
        SCALE=scale,
        BITS=bits,
        CELL=cell,
        ROWS=source_rows,
        PIXELS=size,
        num_warps=setting.num_warps,
    )
    return pixels

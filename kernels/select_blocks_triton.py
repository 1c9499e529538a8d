"""Block selection on the GPU: the kernel form of `select_blocks_reference`, exact for any size and rank."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.catalogue import MAX_SLOTS
from flashvsr_trt.kernels.tuning import Setting

MAX_ENTRIES = 2**21

STEPS = tl.constexpr(8)
"""Thresholds that one pass counts entries for: the integer work then takes about as long as reading them."""

MARGIN = tl.constexpr(32)
"""The sample's ranks may be wrong by 1/32 of it: four standard deviations for 4096 entries, at the median."""

TOP = tl.constexpr(0x7F800001)
"""Above the bits of every float, infinity included."""

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
"""All bits but the sign, which -0.0 has."""


@triton.jit
def _below(bits, base, step):
    """[LINES, LANES] -> [LANES, 2, 2, 2] uint32: how many of a lane are below base, ..., base + 7 * step."""
    # Joined copies stay in their thread, where a new axis would be dealt out over the threads.
    copies = tl.join(bits, bits)
    copies = tl.join(copies, copies)
    copies = tl.join(copies, copies)
    threshold = base + step * tl.arange(0, STEPS)
    difference = copies - tl.reshape(threshold, [1, 1, 2, 2, 2])
    # The sign bit: two instructions an entry and threshold, and no predicates.
    return tl.sum(difference.to(tl.uint32, bitcast=True) >> 31, axis=0)


@triton.jit
def _count(source, size, base, step, LINES: tl.constexpr, LANES: tl.constexpr):
    """[8] int32: how many of the `size` entries reach base, base + step, and so on to base + 7 * step."""
    position = tl.arange(0, LINES)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    below = tl.zeros([LANES, 2, 2, 2], tl.uint32)
    for start in range(0, size, LINES * LANES):
        bits = tl.load(source + start + position, mask=start + position < size, other=MAGNITUDE)
        below += _below(bits & MAGNITUDE, base, step)
    return size - tl.reshape(tl.sum(below, axis=0), [STEPS]).to(tl.int32)


@triton.jit
def _narrow(counts, base, step, rank, low, high, reach_low, reach_high):
    """The part of [low, high) between neighbouring thresholds, of which `rank` entries reach the lower only.

    `reach_low` and `reach_high` are how many entries reach its ends; `counts` how many reach base + n * step.
    """
    reached = counts >= rank
    digit = tl.sum(reached.to(tl.int32))
    reach_low = tl.min(tl.where(reached, counts, reach_low))
    reach_high = tl.max(tl.where(reached, reach_high, counts))
    low = tl.where(digit > 0, base + (digit - 1) * step, low)
    high = tl.minimum(high, tl.where(digit < STEPS, base + digit * step, high))
    return low, high, reach_low, reach_high


@triton.jit
def _sample_bounds(sample, rank, low, high, TILE: tl.constexpr):
    """The part of [low, high) that holds the largest value that `rank` entries of the sample reach."""
    reach_low, reach_high = TILE, 0
    while (high - low > 1) & (reach_low - reach_high > TILE // (8 * MARGIN)):
        step = (high - low + STEPS - 1) // STEPS
        below = tl.reshape(tl.sum(_below(sample, low, step), axis=0), [STEPS])
        counts = TILE - below.to(tl.int32)
        low, high, reach_low, reach_high = _narrow(counts, low, step, rank, low, high, reach_low, reach_high)
    return low, high


@triton.jit
def _guess(bits_of, entries, rank, LINES: tl.constexpr, LANES: tl.constexpr):
    """(low, high) that the entry of this rank is likely to lie between, from a sample of the whole map."""
    TILE: tl.constexpr = LINES * LANES
    number = (tl.arange(0, LINES)[:, None] * LANES + tl.arange(0, LANES)[None, :]).to(tl.int64)
    # One of each TILE-th part of the map; which one, the golden ratio deals, so that no column is preferred.
    within = ((number * 0x9E3779B1 & 0xFFFFFFFF) * entries) >> 32
    sample = tl.load(bits_of + (number * entries + within) // TILE) & MAGNITUDE
    sample_rank = (rank.to(tl.int64) * TILE // entries).to(tl.int32)
    low, high = tl.min(sample), tl.max(sample) + 1
    low, _ = _sample_bounds(sample, tl.minimum(sample_rank + TILE // MARGIN, TILE), low, high, TILE)
    _, high = _sample_bounds(sample, tl.maximum(sample_rank - TILE // MARGIN, 1), low, high, TILE)
    return low, high


@triton.jit
def _collect(source, size, low, high, scratch, room, LINES: tl.constexpr, LANES: tl.constexpr):
    """Writes the entries in [low, high) to lines of the scratch, each lane by itself, and 0 after its last.

    Returns the lines filled; more than `room` of them if a lane had more entries than that.
    """
    line = tl.arange(0, LINES)[:, None]
    lane = tl.arange(0, LANES)
    filled = tl.zeros([LANES], tl.int32)
    for start in range(0, size, LINES * LANES):
        place = start + line * LANES + lane[None, :]
        bits = tl.load(source + place, mask=place < size, other=MAGNITUDE) & MAGNITUDE
        inside = ((bits >= low) & (bits < high)).to(tl.int32)
        at = filled[None, :] + tl.cumsum(inside, axis=0) - inside
        tl.store(scratch + at * LANES + lane[None, :], bits, mask=(inside > 0) & (at < room))
        filled += tl.sum(inside, axis=0)
    lines = tl.max(filled)
    for empty in range(0, tl.minimum(lines, room)):
        tl.store(scratch + empty * LANES + lane, tl.zeros([LANES], tl.int32), mask=empty >= filled)
    return lines


@triton.jit
def _threshold(bits_of, entries, rank, scratch, space, LINES: tl.constexpr, LANES: tl.constexpr):
    """The bits of the largest value that `rank` of the entries reach.

    Non-negative floats order as their bits do, so the bits are searched for, by counting how many entries
    reach each of eight thresholds: first those that a sample suggests, then ever closer ones. What the guess
    was worth decides the time, never the result.
    """
    guessed_low, guessed_high = _guess(bits_of, entries, rank, LINES, LANES)
    base = tl.maximum(guessed_low, 1)
    step = tl.maximum(guessed_high - base, 0) // (STEPS - 1) + 1
    low, high, reach_low, reach_high = 0, TOP, entries, 0
    room = space // LANES
    # Lanes do not fill evenly: so many entries, spread at random, fit in 99 of 100 cases or more.
    few = LANES * room * tl.minimum(room, 16) // 64
    counts = _count(bits_of, entries, base, step, LINES, LANES)
    low, high, reach_low, reach_high = _narrow(counts, base, step, rank, low, high, reach_low, reach_high)
    while (high - low > 1) & (reach_low - reach_high > few):
        step = (high - low + STEPS - 1) // STEPS
        counts = _count(bits_of, entries, low, step, LINES, LANES)
        low, high, reach_low, reach_high = _narrow(counts, low, step, rank, low, high, reach_low, reach_high)

    # Unless one more pass is the last, the few entries left are collected and from then on read alone. If
    # they do not fit, all are read on.
    source, size, above = bits_of, entries, 0
    if high - low > STEPS:
        lines = _collect(bits_of, entries, low, high, scratch, room, LINES, LANES)
        tl.debug_barrier()
        if lines <= room:
            source, size, above = scratch, lines * LANES, reach_high
    while high - low > 1:
        step = (high - low + STEPS - 1) // STEPS
        counts = _count(source, size, low, step, LINES, LANES) + above
        low, high, reach_low, reach_high = _narrow(counts, low, step, rank, low, high, reach_low, reach_high)
    return low


@triton.jit
def select_blocks(
    probability,
    slot_valid,
    windows,
    units,
    slots,
    top_k,
    index,
    count,
    MAX_SLOTS: tl.constexpr,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One (head, query unit) per program of axis 0; axis 1 deals out its query windows to GROUPS programs.

    Every program of axis 1 finds the threshold for itself, which costs no more time than waiting for another.
    Its own part of `index`, not written yet, is the scratch of that search.
    TILE entries are read at once, in lines of LANES: with at least a lane a thread, counting and collecting
    stay within threads.
    """
    key_windows = (slots + units) * windows
    unit = tl.program_id(0)
    entries = windows * key_windows
    probability += unit.to(tl.int64) * entries
    index += unit.to(tl.int64) * entries
    first = windows * tl.program_id(1) // GROUPS
    last = windows * (tl.program_id(1) + 1) // GROUPS
    if first == last:
        return

    slot = tl.arange(0, MAX_SLOTS)
    valid = tl.load(slot_valid + slot, mask=slot < slots, other=0).to(tl.int32)
    visible = windows * windows * (tl.sum(valid) + units)
    rank = tl.minimum(visible - 1, top_k) + 1
    scratch = index + first * key_windows
    space = (last - first) * key_windows
    bits_of = probability.to(tl.pointer_type(tl.int32))
    threshold = _threshold(bits_of, entries, rank, scratch, space, TILE // LANES, LANES)
    tl.debug_barrier()

    column = tl.arange(0, COLUMNS)[None, :]
    for start_row in range(first, last, ROWS):
        row = start_row + tl.arange(0, ROWS)
        exists = row < last
        line = row.to(tl.int64)[:, None] * key_windows
        kept_before = tl.zeros([ROWS], tl.int32)
        out = index + line
        for start in range(0, key_windows, COLUMNS):
            inside = exists[:, None] & (start + column < key_windows)
            bits = tl.load(bits_of + line + start + column, mask=inside, other=0)
            kept = inside & ((bits & MAGNITUDE) > threshold)
            ordinal = kept_before[:, None] + tl.cumsum(kept.to(tl.int32), axis=1) - 1
            tl.store(out + ordinal, (start + column).broadcast_to(ROWS, COLUMNS), mask=kept)
            kept_before += tl.sum(kept.to(tl.int32), axis=1)
        for start in range(0, key_windows, COLUMNS):
            unused = (start + column >= kept_before[:, None]) & (start + column < key_windows)
            zero = tl.zeros([ROWS, COLUMNS], tl.int32)
            tl.store(out + start + column, zero, mask=exists[:, None] & unused)
        tl.store(count + unit * windows + row, kept_before, mask=exists)


def launch_select_blocks(
    probability: torch.Tensor, slot_valid: torch.Tensor, top_k: int, setting: Setting
) -> tuple[torch.Tensor, torch.Tensor]:
    """`select_blocks_reference` as one kernel launch: arguments and results are its, no host synchronisation.

    Raises:
        ValueError: `probability` is not contiguous float32, or there are more than 16 ring slots, or 2**21
            entries in one map.
    """
    heads, units, windows, key_windows = probability.shape
    slots = slot_valid.shape[0]
    if probability.dtype != torch.float32 or not probability.is_contiguous():
        raise ValueError(f"probability must be contiguous float32, not {probability.dtype}")
    if key_windows != (slots + units) * windows:
        raise ValueError(f"{key_windows} key windows do not fit {slots} slots + {units} units of {windows}")
    if slots > MAX_SLOTS:
        raise ValueError(f"{slots} ring slots; the kernel reads at most {MAX_SLOTS}")
    if windows * key_windows >= MAX_ENTRIES:
        raise ValueError(f"{windows} x {key_windows} windows; the kernel counts up to {MAX_ENTRIES} entries")
    index = probability.new_empty((heads, units * windows, key_windows), dtype=torch.int32)
    count = probability.new_empty((heads, units * windows), dtype=torch.int32)
    select_blocks[(heads * units, setting.constants["GROUPS"])](
        probability,
        slot_valid,
        windows,
        units,
        slots,
        top_k,
        index,
        count,
        MAX_SLOTS=MAX_SLOTS,
        **setting.constants,
        num_warps=setting.num_warps,
    )
    return index, count

"""Block selection on the GPU: the kernel form of `select_blocks_reference`, exact for any size and rank."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.catalogue import MAX_SLOTS
from flashvsr_trt.kernels.tuning import Setting

MAX_ENTRIES = 2**21

MARGIN = tl.constexpr(48)
"""The sample's ranks may be wrong by 1/48 of it: 3.8 standard deviations for 8192 entries, at the median."""

TOP = tl.constexpr(0x7F800001)
"""Above the bits of every float, infinity included."""

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
"""All bits but the sign, which -0.0 has."""


@triton.jit
def _reaching(bits, threshold):
    """[LINES, LANES] -> [LANES] uint32: how many of a lane reach the threshold."""
    # The sign bit of a difference: two instructions an entry, and no predicates.
    return tl.sum((threshold - 1 - bits).to(tl.uint32, bitcast=True) >> 31, axis=0)


@triton.jit
def _narrow(reach_1, reach_2, reach_3, above, rank, low, high, reach_low, reach_high):
    """The quarter of [low, high) that holds the largest value that `rank` entries reach.

    `reach_low` and `reach_high` are how many entries reach its ends; `reach_n`, by lane, how many reach
    low + n * step, not counting the `above` entries that are known to.
    """
    # Three counts of 21 bits in one word: one sum over the program instead of three.
    packed = tl.sum(reach_1.to(tl.int64) | (reach_2.to(tl.int64) << 21) | (reach_3.to(tl.int64) << 42))
    count_1 = (packed & 0x1FFFFF).to(tl.int32) + above
    count_2 = ((packed >> 21) & 0x1FFFFF).to(tl.int32) + above
    count_3 = (packed >> 42).to(tl.int32) + above
    step = (high - low + 3) // 4
    low += step * ((count_1 >= rank).to(tl.int32) + (count_2 >= rank) + (count_3 >= rank))
    reach_low = tl.where(count_1 >= rank, count_1, reach_low)
    reach_low = tl.where(count_2 >= rank, count_2, reach_low)
    reach_low = tl.where(count_3 >= rank, count_3, reach_low)
    reach_high = tl.maximum(reach_high, tl.where(count_3 >= rank, 0, count_3))
    reach_high = tl.maximum(reach_high, tl.where(count_2 >= rank, 0, count_2))
    reach_high = tl.maximum(reach_high, tl.where(count_1 >= rank, 0, count_1))
    return low, tl.minimum(low + step, high), reach_low, reach_high


@triton.jit
def _search(held, above, rank, low, high, reach_low, reach_high, few):
    """[low, high) narrowed until `few` entries are left in it, or what reaches `high` is known to be kept."""
    # With rank - 1 entries from high on, the one of this rank is the largest below: nothing is left to find.
    while (high - low > 1) & (rank - reach_high > 1) & (reach_low - reach_high > few):
        step = (high - low + 3) // 4
        reach_1 = _reaching(held, low + step)
        reach_2 = _reaching(held, low + 2 * step)
        reach_3 = _reaching(held, low + 3 * step)
        low, high, reach_low, reach_high = _narrow(
            reach_1, reach_2, reach_3, above, rank, low, high, reach_low, reach_high
        )
    return low, high, reach_low, reach_high


@triton.jit
def _extent(held):
    """(least positive bits, greatest + 1, how many are positive) of the values held."""
    # One less than zero is the greatest of the unsigned numbers.
    least = tl.min((held - 1).to(tl.uint32, bitcast=True)).to(tl.int32) + 1
    return least, tl.max(held) + 1, tl.sum(_reaching(held, 1)).to(tl.int32)


@triton.jit
def _bracket(least, end, positive, size, rank):
    """(low, high, reach_low, reach_high) to search `size` values from: zeros, often many, are apart."""
    zero = positive < rank
    low, high = tl.where(zero, 0, least), tl.where(zero, 1, end)
    return low, high, tl.where(zero, size, positive), tl.where(zero, positive, 0)


@triton.jit
def _guess(bits_of, entries, rank, LINES: tl.constexpr, LANES: tl.constexpr):
    """(low, high) that the entry of this rank is likely to lie between, from a sample of the whole map."""
    TILE: tl.constexpr = LINES * LANES
    number = tl.arange(0, TILE).to(tl.int64)
    # One of each TILE-th part of the map; which one, the golden ratio deals, so that no column is preferred.
    within = ((number * 0x9E3779B1 & 0xFFFFFFFF) * entries) >> 32
    sample = tl.load(bits_of + (number * entries + within) // TILE) & MAGNITUDE
    sample = tl.reshape(sample, [LINES, LANES])
    sample_rank = (rank.to(tl.int64) * TILE // entries).to(tl.int32)
    few: tl.constexpr = TILE // (16 * MARGIN)
    least, end, positive = _extent(sample)
    deep = tl.minimum(sample_rank + TILE // MARGIN, TILE)
    low, high, reach_low, reach_high = _bracket(least, end, positive, TILE, deep)
    guessed_low, _, _, _ = _search(sample, 0, deep, low, high, reach_low, reach_high, few)
    shallow = tl.maximum(sample_rank - TILE // MARGIN, 1)
    low, high, reach_low, reach_high = _bracket(least, end, positive, TILE, shallow)
    _, guessed_high, _, _ = _search(sample, 0, shallow, low, high, reach_low, reach_high, few)
    return guessed_low, guessed_high


@triton.jit
def _count(bits_of, entries, low, step, LINES: tl.constexpr, LANES: tl.constexpr):
    """[LANES] uint32, for n = 1, 2, 3: how many entries of a lane reach low + n * step."""
    position = tl.arange(0, LINES)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    reach_1 = tl.zeros([LANES], tl.uint32)
    reach_2 = tl.zeros([LANES], tl.uint32)
    reach_3 = tl.zeros([LANES], tl.uint32)
    loaded = tl.load(bits_of + position, mask=position < entries, other=0)
    for start in range(0, entries, LINES * LANES):
        bits = loaded & MAGNITUDE
        place = start + LINES * LANES + position
        loaded = tl.load(bits_of + place, mask=place < entries, other=0)
        reach_1 += _reaching(bits, low + step)
        reach_2 += _reaching(bits, low + 2 * step)
        reach_3 += _reaching(bits, low + 3 * step)
    return reach_1, reach_2, reach_3


@triton.jit
def _collect(bits_of, entries, low, high, scratch, room, LINES: tl.constexpr, LANES: tl.constexpr):
    """Writes the entries in [low, high) to lines of the scratch, each lane by itself.

    Returns [LANES] int32 twice: how many entries a lane has in [low, high), of which the first `room` were
    written, and how many it has from `high` on.
    """
    lane = tl.arange(0, LANES)
    position = tl.arange(0, LINES)[:, None] * LANES + lane[None, :]
    filled = tl.zeros([LANES], tl.int32)
    reach = tl.zeros([LANES], tl.uint32)
    # Each tile is loaded while the one before is worked on: nothing else would hide the wait.
    loaded = tl.load(bits_of + position, mask=position < entries, other=0)
    for start in range(0, entries, LINES * LANES):
        bits = tl.where(start + position < entries, loaded & MAGNITUDE, -1)
        place = start + LINES * LANES + position
        loaded = tl.load(bits_of + place, mask=place < entries, other=0)
        inside = ((bits >= low) & (bits < high)).to(tl.int32)
        at = filled[None, :] + tl.cumsum(inside, axis=0) - inside
        # In one dimension: which of two comes first, compilers choose anew for addresses they cannot foresee.
        place = tl.reshape(at * LANES + lane[None, :], [LINES * LANES])
        fits = tl.reshape((inside > 0) & (at < room), [LINES * LANES])
        tl.store(scratch + place, tl.reshape(bits, [LINES * LANES]), mask=fits)
        filled += tl.sum(inside, axis=0)
        reach += _reaching(bits, high)
    return filled, reach.to(tl.int32)


@triton.jit
def _threshold(
    bits_of, entries, rank, scratch, space, LINES: tl.constexpr, LANES: tl.constexpr, HELD: tl.constexpr
):
    """Bits that exactly the entries above the largest value that `rank` entries reach are greater than.

    Non-negative floats order as their bits do, so the bits are searched for, by counting how many entries
    reach each of three thresholds. A map of HELD lines or fewer is held in registers meanwhile. Of a larger
    one, the entries between two values that a sample suggests are collected, and those held. What the guess
    was worth decides the time, never the result.
    """
    lane = tl.arange(0, LANES)
    low, high, reach_low, reach_high = 0, TOP, entries, 0
    source = bits_of
    filled = (entries - lane + LANES - 1) // LANES
    if entries > HELD * LANES:
        source = scratch
        filled = tl.zeros([LANES], tl.int32)
        room = tl.minimum(space // LANES, HELD)
        few = entries
        guessed_low, guessed_high = _guess(bits_of, entries, rank, LINES, LANES)
        collected = 0
        while (high - low > 1) & (rank - reach_high > 1) & (collected == 0):
            if reach_low - reach_high <= few:
                filled, reach = _collect(
                    bits_of, entries, guessed_low, guessed_high, scratch, room, LINES, LANES
                )
                reach_end = tl.sum(reach)
                reach_start = reach_end + tl.sum(filled)
                collected = ((reach_start >= rank) & (reach_end < rank) & (tl.max(filled) <= room)).to(
                    tl.int32
                )
                # Lanes fill unevenly: so many entries, spread at random, fit almost always. Those that did
                # not are counted before they are collected again.
                few = tl.minimum(LANES * room * tl.minimum(room, 16) // 64, (reach_low - reach_high) // 4)
                if reach_start < rank:
                    high, reach_high = guessed_low, reach_start
                elif reach_end >= rank:
                    low, reach_low = guessed_high, reach_end
                else:
                    low, high, reach_low, reach_high = guessed_low, guessed_high, reach_start, reach_end
            else:
                step = (high - low + 3) // 4
                reach_1, reach_2, reach_3 = _count(bits_of, entries, low, step, LINES, LANES)
                low, high, reach_low, reach_high = _narrow(
                    reach_1, reach_2, reach_3, 0, rank, low, high, reach_low, reach_high
                )
            guessed_low, guessed_high = low, high
        filled *= collected
        tl.debug_barrier()
    above = reach_high
    line = tl.arange(0, HELD)[:, None]
    places = (source + lane)[None, :] + line * LANES
    held = tl.load(places, mask=line < filled[None, :], other=0) & MAGNITUDE
    if entries <= HELD * LANES:
        least, end, positive = _extent(held)
        low, high, reach_low, reach_high = _bracket(least, end, positive, entries, rank)
    _, high, _, _ = _search(held, above, rank, low, high, reach_low, reach_high, 0)
    return high - 1


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
    HELD: tl.constexpr,
    OWN: tl.constexpr,
):
    """One (head, query unit) per program of axis 0; axis 1 deals out its query windows to GROUPS programs.

    Every program of axis 1 finds the threshold for itself, which costs no more time than waiting for another.
    Its own part of `index`, not written yet, is the scratch of that search.
    TILE entries are read at once, in lines of LANES: with at least a lane a thread, counting and collecting
    stay within threads. HELD lines are kept in registers.
    """
    own = units if OWN else 0
    key_windows = (slots + own) * windows
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
    visible = windows * windows * (tl.sum(valid) + own)
    rank = tl.minimum(visible - 1, top_k) + 1
    scratch = index + first * key_windows
    space = (last - first) * key_windows
    bits_of = probability.to(tl.pointer_type(tl.int32))
    threshold = _threshold(bits_of, entries, rank, scratch, space, TILE // LANES, LANES, HELD)
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
            place = tl.reshape(line + ordinal, [ROWS * COLUMNS])
            number = tl.reshape((start + column).broadcast_to(ROWS, COLUMNS), [ROWS * COLUMNS])
            tl.store(index + place, number, mask=tl.reshape(kept, [ROWS * COLUMNS]))
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
        ValueError: `probability` is not contiguous float32, or `slot_valid` bool, or there are more than 16
            ring slots, or 2**21 entries in one map.
    """
    heads, units, windows, key_windows = probability.shape
    slots = slot_valid.shape[0]
    if probability.dtype != torch.float32 or not probability.is_contiguous():
        raise ValueError(f"probability must be contiguous float32, not {probability.dtype}")
    if slot_valid.dtype != torch.bool or not slot_valid.is_contiguous():
        raise ValueError(f"slot_valid must be contiguous bool, not {slot_valid.dtype}")
    if key_windows not in (slots * windows, (slots + units) * windows):
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
        OWN=key_windows > slots * windows,
        **setting.constants,
        num_warps=setting.num_warps,
    )
    return index, count

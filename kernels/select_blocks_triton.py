"""Block selection on the GPU: the kernel form of `select_blocks_reference`, exact for any size and rank."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.catalogue import MAX_SLOTS
from flashvsr_trt.kernels.tuning import Setting

MAX_ENTRIES = 2**21


@triton.jit
def _next_two_bits(probability, entries, rank, threshold, step, TILE: tl.constexpr):
    """The threshold raised by as many steps, up to three, as still leave `rank` entries that reach it."""
    position = tl.arange(0, TILE)
    reach_1 = tl.zeros([TILE], tl.int32)
    reach_2 = tl.zeros([TILE], tl.int32)
    reach_3 = tl.zeros([TILE], tl.int32)
    for start in range(0, entries, TILE):
        place = start + position
        value = tl.load(probability + place, mask=place < entries, other=0.0)
        bits = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        reach_1 += (bits >= threshold + step).to(tl.int32)
        reach_2 += (bits >= threshold + 2 * step).to(tl.int32)
        reach_3 += (bits >= threshold + 3 * step).to(tl.int32)
    # Three counts of 21 bits in one word: one sum over the program instead of three.
    packed = reach_1.to(tl.int64) | (reach_2.to(tl.int64) << 21) | (reach_3.to(tl.int64) << 42)
    counts = tl.sum(packed)
    digit = ((counts & 0x1FFFFF) >= rank).to(tl.int32)
    digit += (((counts >> 21) & 0x1FFFFF) >= rank).to(tl.int32)
    digit += ((counts >> 42) >= rank).to(tl.int32)
    return threshold + digit * step


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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One (head, query unit) per program of axis 0; axis 1 deals out its query windows to GROUPS programs.

    A non-negative float orders as its bits do, so the threshold is found from the top, two bits at a time, by
    counting the entries that reach each of the three next values. Every program of axis 1 finds it for
    itself, which costs no more time than waiting for another.
    """
    key_windows = (slots + units) * windows
    unit = tl.program_id(0)
    entries = windows * key_windows
    probability += unit.to(tl.int64) * entries

    slot = tl.arange(0, MAX_SLOTS)
    valid = tl.load(slot_valid + slot, mask=slot < slots, other=0).to(tl.int32)
    visible = windows * windows * (tl.sum(valid) + units)
    rank = tl.minimum(visible - 1, top_k) + 1

    # Bits 30 and 29, then 28 and 27, and so on; the last step finds bit 0, for bit 1 is found already. The
    # loop stays a loop: unrolled, its code alone outgrows the instruction cache.
    threshold = 0
    for pair in range(16):
        low = tl.maximum(29 - 2 * pair, 0)
        threshold = _next_two_bits(probability, entries, rank, threshold, 1 << low, TILE)

    column = tl.arange(0, COLUMNS)[None, :]
    for first in range(tl.program_id(1) * ROWS, windows, GROUPS * ROWS):
        row = first + tl.arange(0, ROWS)
        exists = row < windows
        line = row.to(tl.int64)[:, None] * key_windows
        kept_before = tl.zeros([ROWS], tl.int32)
        out = index + unit.to(tl.int64) * entries + line
        for start in range(0, key_windows, COLUMNS):
            inside = exists[:, None] & (start + column < key_windows)
            value = tl.load(probability + line + start + column, mask=inside, other=0.0)
            kept = inside & ((value.to(tl.int32, bitcast=True) & 0x7FFFFFFF) > threshold)
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

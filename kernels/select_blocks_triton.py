"""Block selection on the GPU: the kernel form of `select_blocks_reference`, exact for any size and rank."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.catalogue import MAX_SLOTS
from flashvsr_trt.kernels.device import architecture_of
from flashvsr_trt.kernels.tuning import setting_for


@triton.jit
def _next_digit(
    probability, entries, prefix, rank, HIGH: tl.constexpr, DIGIT: tl.constexpr, TILE: tl.constexpr
):
    """The next digit of the rank-th largest entry, of those whose bits from HIGH up are `prefix`.

    Returns the longer prefix, and the entry's rank among those that share it.
    """
    LOW: tl.constexpr = HIGH - DIGIT if HIGH > DIGIT else 0
    held = tl.zeros([1 << DIGIT], tl.int32)
    position = tl.arange(0, TILE)
    for start in range(0, entries, TILE):
        inside = start + position < entries
        value = tl.load(probability + start + position, mask=inside, other=0.0)
        bits = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        if HIGH < 31:
            inside = inside & ((bits >> HIGH) == prefix)
        held += tl.histogram((bits >> LOW) & ((1 << (HIGH - LOW)) - 1), 1 << DIGIT, mask=inside)
    above = tl.sum(held) - tl.cumsum(held)
    wanted = (above < rank) & (above + held >= rank)
    rank -= tl.sum(tl.where(wanted, above, 0))
    digit = tl.sum(tl.where(wanted, tl.arange(0, 1 << DIGIT), 0))
    return (prefix << (HIGH - LOW)) | digit, rank


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
    DIGIT: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One (head, query unit) per program of axis 0; its query windows are dealt out over the GROUPS of
    axis 1.

    A non-negative float orders as its bits do, so the threshold is found digit by digit from the top: a
    histogram of the entries that share the digits so far says which digit the wanted rank falls in.
    Every program of axis 1 finds the threshold for itself, which costs no more time than waiting for it.
    """
    key_windows = (slots + units) * windows
    unit = tl.program_id(0)
    entries = windows * key_windows
    probability += unit.to(tl.int64) * entries

    slot = tl.arange(0, MAX_SLOTS)
    valid = tl.load(slot_valid + slot, mask=slot < slots, other=0).to(tl.int32)
    visible = windows * windows * (tl.sum(valid) + units)
    rank = tl.minimum(visible - 1, top_k) + 1

    threshold = 0
    for step in tl.static_range((30 + DIGIT) // DIGIT):
        threshold, rank = _next_digit(probability, entries, threshold, rank, 31 - step * DIGIT, DIGIT, TILE)

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
    probability: torch.Tensor, slot_valid: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`select_blocks_reference` as one kernel launch: same arguments, same results, no host synchronisation.

    Raises:
        ValueError: `probability` is not contiguous float32, or there are more than 16 ring slots.
    """
    heads, units, windows, key_windows = probability.shape
    slots = slot_valid.shape[0]
    if probability.dtype != torch.float32 or not probability.is_contiguous():
        raise ValueError(f"probability must be contiguous float32, not {probability.dtype}")
    if key_windows != (slots + units) * windows:
        raise ValueError(f"{key_windows} key windows do not fit {slots} slots + {units} units of {windows}")
    if slots > MAX_SLOTS:
        raise ValueError(f"{slots} ring slots; the kernel reads at most {MAX_SLOTS}")
    index = probability.new_empty((heads, units * windows, key_windows), dtype=torch.int32)
    count = probability.new_empty((heads, units * windows), dtype=torch.int32)
    setting = setting_for("select_blocks", architecture_of(probability.device))
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

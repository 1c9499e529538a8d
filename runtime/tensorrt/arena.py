"""Placing tensors in one block of memory: those that are never alive together share their bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flashvsr_trt.engines.plan import SegmentPlan

ALIGNMENT = 256
"""Of every tensor: what TensorRT asks of its memory, and more than the kernels do."""


@dataclass(frozen=True)
class Layout:
    """Where each tensor starts, in bytes from the block's start, and the block's size."""

    offsets: Mapping[str, int]
    size: int


def aligned(size: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def place_side_by_side(sizes: Mapping[str, int]) -> Layout:
    """Tensors that are all alive together: name -> bytes."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += aligned(size)
    return Layout(offsets, end)


def place_by_lifetime(plan: SegmentPlan) -> Layout:
    """A plan's tensors between steps. Two share bytes only if no step has both alive.

    The largest come first, each at the lowest place that is free in its lifetime.
    """
    placed: list[tuple[int, int, int, int]] = []
    offsets = {}
    for tensor in sorted(plan.carried, key=lambda tensor: -tensor.size_bytes):
        size = aligned(tensor.size_bytes)
        taken = [
            (start, end)
            for start, end, written, last_read in placed
            if written <= tensor.last_read and tensor.written <= last_read
        ]
        start = lowest_gap(taken, size)
        placed.append((start, start + size, tensor.written, tensor.last_read))
        offsets[tensor.name] = start
    return Layout(offsets, max((end for _, end, _, _ in placed), default=0))


def lowest_gap(taken: Iterable[tuple[int, int]], size: int) -> int:
    """The lowest offset with `size` bytes free, where these ranges, from start to end, are taken."""
    start = 0
    for begin, end in sorted(taken):
        if begin - start >= size:
            return start
        start = max(start, end)
    return start

"""Which implementation of an operator runs, and how often each did: a silent fallback cannot pass a test."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_process_calls: Counter[str] = Counter()
_calls: ContextVar[Counter[str]] = ContextVar("flashvsr_calls", default=_process_calls)
_twins_only: ContextVar[bool] = ContextVar("flashvsr_twins_only", default=False)


@contextmanager
def reference_kernels() -> Iterator[None]:
    """Within it the operators run their twins on every device (`--attention reference`)."""
    token = _twins_only.set(True)
    try:
        yield
    finally:
        _twins_only.reset(token)


def runs_kernel(tensor: torch.Tensor) -> bool:
    """Whether an operator on this tensor runs its kernel: on CUDA, unless twins were asked for."""
    return tensor.is_cuda and not runs_twins()


def runs_twins() -> bool:
    """Whether twins were asked for."""
    return _twins_only.get()


def record_call(operator: str, implementation: str) -> None:
    """Counts one call."""
    _calls.get()[f"{operator}/{implementation}"] += 1


def record_calls(calls: Counter[str]) -> None:
    """Counts the calls of a CUDA graph that was replayed: it runs no Python that could count them."""
    _calls.get().update(calls)


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Counts what is called within it in a counter of its own, and nowhere else."""
    token = _calls.set(Counter())
    try:
        yield _calls.get()
    finally:
        _calls.reset(token)


def kernel_calls() -> dict[str, int]:
    """Calls so far by operator and implementation, {"select_blocks/triton": 30, ...}, of this process.

    Within `counted_calls`, of its counter.
    """
    return dict(_calls.get())


def reset_kernel_calls() -> None:
    """Starts counting anew."""
    _calls.get().clear()

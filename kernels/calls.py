"""Which implementation of an operator runs, and how often each did: a silent fallback cannot pass a test."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_calls: Counter[str] = Counter()
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
    return tensor.is_cuda and not _twins_only.get()


def record_call(operator: str, implementation: str) -> None:
    """Counts one call."""
    _calls[f"{operator}/{implementation}"] += 1


def kernel_calls() -> dict[str, int]:
    """Calls so far in this process by operator and implementation: {"select_blocks/triton": 30, ...}.

    A replayed CUDA graph calls nothing: its owner multiplies what was counted while capturing.
    """
    return dict(_calls)


def reset_kernel_calls() -> None:
    """Starts counting anew."""
    _calls.clear()

"""Which implementation of an operator runs, and how often each did: a silent fallback cannot pass a test."""

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

from flashvsr_trt.kernels.tuning import Setting, setting_for

INTERPRETED = "sm_80"
"""The architecture whose settings CPU tensors take: they only meet a kernel under Triton's interpreter."""

T = TypeVar("T")

_process_calls: Counter[str] = Counter()
_calls: ContextVar[Counter[str]] = ContextVar("flashvsr_calls", default=_process_calls)
_references_only: ContextVar[bool] = ContextVar("flashvsr_references_only", default=False)


@contextmanager
def _within(variable: ContextVar[T], value: T) -> Iterator[T]:
    """The variable's value within it."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


def reference_kernels() -> AbstractContextManager[bool]:
    """Within it the operators run their references on every device (`--attention reference`)."""
    return _within(_references_only, True)


def runs_kernel(tensor: torch.Tensor) -> bool:
    """Whether an operator on this tensor runs its kernel: on CUDA, unless `runs_references`."""
    return tensor.is_cuda and not runs_references()


def kernel_setting(operator: str, tensor: torch.Tensor) -> Setting | None:
    """How the operator's Triton kernel is launched on this tensor; None where its reference is to run.

    Counts the call of the one or the other.
    """
    runs = runs_kernel(tensor)
    record_call(operator, "triton" if runs else "reference")
    return setting_for(operator, architecture_of(tensor.device)) if runs else None


def runs_references() -> bool:
    """Whether references were asked for, or a graph is traced, by torch.export or torch.compile.

    A graph is then made of the operators of references; its own compiler looks for kernels.
    """
    return torch.compiler.is_compiling() or _references_only.get()


def record_call(operator: str, implementation: str) -> None:
    """Counts one call; what is traced is none."""
    if not torch.compiler.is_compiling():
        _calls.get()[f"{operator}/{implementation}"] += 1


def record_calls(calls: Counter[str]) -> None:
    """Counts the calls of a CUDA graph that was replayed: it runs no Python that could count them."""
    _calls.get().update(calls)


def counted_calls() -> AbstractContextManager[Counter[str]]:
    """Counts what is called within it in a counter of its own, and nowhere else."""
    return _within(_calls, Counter())


def kernel_calls() -> dict[str, int]:
    """Calls so far by operator and implementation, {"select_blocks/triton": 30, ...}, of this process.

    Within `counted_calls`, of its counter.
    """
    return dict(_calls.get())


def reset_kernel_calls() -> None:
    _calls.get().clear()


@functools.cache
def architecture_of(device: torch.device) -> str:
    """ "sm_90" for a Hopper device, and so on."""
    if device.type != "cuda":
        return INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"

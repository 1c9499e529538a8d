"""Runs a kernel wherever these tests run: on the GPU if there is one, else under Triton's interpreter."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context

import pytest
import torch


@pytest.fixture(scope="session")
def run_kernel() -> Iterator[Callable]:
    """Calls a launch function on CPU tensors: `run_kernel(launch, *arguments)`.

    The interpreter is chosen before Triton is first imported, so it has a process of its own: no other test
    notices.
    """
    if torch.cuda.is_available():
        yield run_on_gpu
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=interpret) as worker:
        yield lambda launch, *arguments: worker.submit(launch, *arguments).result()


def interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    if find_spec("triton"):
        interpret_once()


def interpret_once() -> None:
    """Leave out what the interpreter does over and over to no effect: most of an integer kernel's time.

    It computes whether each integer operation overflows, and asserts that in a debug mode which it never has.
    It patches triton.language at each call of a function inside a kernel: the first in a launch is enough.
    """
    from triton.runtime.interpreter import InterpretedFunction, interpreter_builder

    assert not interpreter_builder.options.debug
    interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)
    call, run, patched = InterpretedFunction.__call__, InterpretedFunction.run, set()

    def call_patched(function, *arguments, **options):
        if function.fn in patched:
            return function.rewrite()(*arguments, **options)
        patched.add(function.fn)
        return call(function, *arguments, **options)

    def run_afresh(function, *arguments, **options):
        patched.clear()
        return run(function, *arguments, **options)

    InterpretedFunction.__call__, InterpretedFunction.run = call_patched, run_afresh


def run_on_gpu(launch: Callable, *arguments):
    moved = [value.cuda() if isinstance(value, torch.Tensor) else value for value in arguments]
    result = launch(*moved)
    return tuple(value.cpu() for value in result) if isinstance(result, tuple) else result.cpu()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))

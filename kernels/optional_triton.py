"""Triton, where it is installed. Without it kernels can be defined, and not launched.

A kernel, its reference and its operator then stand in one file, which machines without Triton import too.
"""

from typing import Any

from flashvsr_trt.errors import MissingDependencyError
from flashvsr_trt.extras import install_command


class _Absent:
    """In place of `triton` and of `triton.language`."""

    constexpr = None

    @staticmethod
    def jit(function):
        """The function as it is."""
        return function

    def __getattr__(self, name: str):
        raise MissingDependencyError(f"launching kernels needs Triton ({name}): {install_command('kernels')}")


# A kernel's launch takes options that are no parameters of it: Triton's own types refuse them.
triton: Any
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = _Absent()


HOPPER_TRITON = (3, 6)
"""The oldest whose Gluon has what the kernels of sm_90 are written in; torch 2.10 brings it."""


def check_triton(architecture: str) -> None:
    """Raises MissingDependencyError if Triton is too old for an architecture's kernels."""
    version = triton.__version__
    if architecture == "sm_90" and tuple(map(int, version.split(".")[:2])) < HOPPER_TRITON:
        raise MissingDependencyError(
            f"the kernels of sm_90 need Triton {'.'.join(map(str, HOPPER_TRITON))} and this is {version}: "
            "pip install 'torch>=2.10'"
        )

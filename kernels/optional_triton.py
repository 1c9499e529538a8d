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

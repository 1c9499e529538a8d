"""Host memory that stays with the process: CPU stages free and take the same large blocks every chunk.

glibc gives blocks above 32 MiB back to the kernel when they are freed, and the kernel clears every page again
when they come back: much of a CPU's time at full resolution (see `bench.cpu`).
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt` (see its manual page, mallopt(3))."""

NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Freed blocks stay in the heap from now on, so memory in use never falls; False without glibc."""
    return _mallopt(M_MMAP_MAX, 0) and _mallopt(M_TRIM_THRESHOLD, NEVER)


KEPT_ON_HOST = 2.5
"""Memory that is kept lies in pieces: so many times as much is taken as is in use at a time, at most."""


def return_freed_memory() -> bool:
    """Blocks of 1 MiB and more go back when they are freed: slower, but no more is taken than is in use."""
    return _mallopt(M_MMAP_THRESHOLD, 2**20)


def _mallopt(parameter: int, value: int) -> bool:
    """False where there is no glibc; Windows has no such thing as the program's own library."""
    if sys.platform == "win32":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(parameter, value))

"""Host memory that stays with the process: CPU stages free and take the same large blocks every chunk.

glibc gives blocks above 32 MiB back to the kernel when they are freed, and the kernel clears every page again
when they come back: much of a CPU's time at full resolution (see `bench.cpu`).
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt` (see its manual page, mallopt(3))."""

NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Freed blocks stay in the heap from now on, so memory in use never falls; False without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))

"""Host memory that stays with the process: CPU stages free and take the same large blocks every chunk.

glibc gives blocks above 32 MiB back to the kernel when they are freed, and the kernel clears every page again
when they come back: much of a CPU's time at full resolution (see `bench.cpu`).
"""

import ctypes
import sys
from pathlib import Path

import psutil

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


CGROUPS = Path("/sys/fs/cgroup")


def free_host_memory(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process can still take: what the machine has, or a container's limit leaves."""
    return min([psutil.virtual_memory().available, *_left_by_limits(cgroups, own)])


def _left_by_limits(cgroups: Path, own: Path) -> list[int]:
    """What each memory limit above this process leaves (cgroups of version 2 and 1)."""
    left = []
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        files = ("memory.max", "memory.current", "inactive_file")
        if controllers:
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        group = root / name.lstrip("/")
        # In a container the name is of the host's tree, and its own limit is at the root of what it sees.
        for folder in {root, group, *(parent for parent in group.parents if parent.is_relative_to(root))}:
            left += _left_by_limit(folder, *files)
    return left


def _left_by_limit(folder: Path, limit_file: str, used_file: str, cache_key: str) -> list[int]:
    try:
        limit, used = (folder / limit_file).read_text().strip(), int((folder / used_file).read_text())
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return []  # this group has no limit of its own
    if limit == "max":
        return []
    # Cached files go when memory is short.
    return [max(0, int(limit) - used + int(counts.get(cache_key, 0)))]

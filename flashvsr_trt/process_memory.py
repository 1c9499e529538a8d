"""Memory of a process: the most that it held itself, and what it can still take."""

import re
import sys
from pathlib import Path

import psutil

from flashvsr_trt.notices import Notify, log_notice

STATUS = Path("/proc/self/status")
CGROUPS = Path("/sys/fs/cgroup")


def peak_process_bytes(notify: Notify = log_notice) -> int:
    """Most bytes of memory that this process had at a time since it began its program.

    Linux counts them in `VmHWM`, Windows in the peak working set. `ru_maxrss` is not asked on Linux: there it
    begins with what the parent held. Where neither is counted, what is held now, and `notify` is told.
    """
    if STATUS.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    held = psutil.Process().memory_info()
    if (peak := getattr(held, "peak_wset", None)) is not None:
        return peak
    if sys.platform == "darwin":
        import resource  # a module of Unix alone

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    notify(f"{sys.platform} does not say what a process held at most: what it holds now is reported instead")
    return held.rss


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

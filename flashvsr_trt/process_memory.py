"""The most memory that a process held itself."""

import re
import sys
from pathlib import Path

import psutil

from flashvsr_trt.notices import Notify, log_notice

STATUS = Path("/proc/self/status")


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

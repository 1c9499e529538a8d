"""What starts: the command line, and a session in a new process up to its first frame."""

import os
import subprocess
import sys

from bench.gate.measure import Metrics, Sample

FIRST_FRAME = """
import numpy as np
from flashvsr_trt.runtime import open_session
options = dict(schedule="low-latency", weights="random", backend="torch", device="cpu")
with open_session(64, 64, preset="{preset}", **options) as session:
    assert len(session.push(np.zeros((5, 64, 64, 3), np.uint8))) == 5
"""

MODULES = """
import sys
import flashvsr_trt.cli.main
own = [name for name in sys.modules if name.startswith("flashvsr_trt")]
print(len(own), len(sys.modules), int("torch" in sys.modules))
"""


def child_seconds(*arguments: str) -> float:
    """Processor seconds of a Python process. Raises RuntimeError where it fails."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"python {arguments[0]} {arguments[1].split()[0]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def cli_start(preset: str) -> Sample:
    """`flashvsr-trt --help`, the least of three: nothing makes a short process faster by chance."""
    return lambda: {"help": min(child_seconds("-m", "flashvsr_trt", "--help") for _ in range(3))}


def cold_start(preset: str) -> Sample:
    """From a new process to the first 5 frames."""
    return lambda: {"first_frames": child_seconds("-c", FIRST_FRAME.format(preset=preset))}


def modules(preset: str) -> Sample:
    """What the command line imports before it knows its command."""

    def sample() -> Metrics:
        command = [sys.executable, "-c", MODULES]
        counted = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return dict(zip(("own_modules", "all_modules", "torch"), map(int, counted), strict=True))

    return sample

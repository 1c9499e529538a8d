"""What the cases from the field share: a command of its own in a folder, and a clip of known grays."""

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.command import ROOT

NANO = ("--preset", "nano", "--backend", "torch", "--schedule", "low-latency")
"""The schedule whose first step is short, for the tests' own speed."""


def run_in(folder: Path, *arguments: str | bytes, stdin: bytes | None = None) -> subprocess.CompletedProcess:
    """`flashvsr-trt run ARGUMENTS` with the preset nano, in a process of its own; output as bytes."""
    command = [sys.executable, "-m", "flashvsr_trt", "run", *NANO, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, timeout=120, env=environment)

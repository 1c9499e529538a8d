"""Run the command line in this process and in one of its own."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from flashvsr_trt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]

ENDLESS = ("/dev/zero", "--raw-size", "64x64", "--rate", "24")
"""A video that no run comes to the end of, whichever of two processes is the faster."""

EVERY_LINE = (
    "-c",
    "from flashvsr_trt.cli import main, display; display.LINE_SECONDS = 0; main.main()",
)
"""Python's arguments for a command line that writes progress after every frame."""


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


def call(capfd: pytest.CaptureFixture, *arguments: object) -> Outcome:
    """`flashvsr-trt ARGUMENTS` in this process."""
    capfd.readouterr()
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_request:
        code = exit_request.code or 0
    captured = capfd.readouterr()
    return Outcome(code, captured.out, captured.err)


def spawn(
    *arguments: object, python: tuple[str, ...] = ("-m", "flashvsr_trt"), **options
) -> subprocess.Popen:
    """The same in a process of its own, which finds the package in this checkout."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *python, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def until_line(process: subprocess.Popen, pattern: str) -> str:
    """Reads stderr up to a line that begins with the pattern; all that was read."""
    seen = ""
    for line in process.stderr:
        seen += line
        if re.match(pattern, line):
            return seen
    raise AssertionError(f"the command ended before it wrote {pattern}: {seen}")


def assert_refused(outcome: Outcome, code: int, *texts: str) -> None:
    """One line of error that holds the texts, and no traceback."""
    assert outcome.code == code, outcome.err
    error = outcome.err.strip().splitlines()[-1]
    assert error.startswith(("error: ", "Error: ")), outcome.err
    for text in texts:
        assert text in error
    assert "Traceback" not in outcome.err


def names(folder: Path) -> set[str]:
    """What a folder holds."""
    return {path.name for path in folder.iterdir()}

"""`engines build` that the system ends: what it leaves is never taken for engines, the next makes them."""

import os
import signal
import subprocess
import sys

import pytest

from flashvsr_trt.engines.cache import list_engines
from flashvsr_trt.files import staging
from tests.cli.command import ROOT
from tests.engines.conftest import SMALLEST

BUILD = """
import os, signal, sys
from flashvsr_trt.cli.main import main

moment, seconds, *arguments = sys.argv[1:]

def end(event, found):
    if event == "open" and os.path.basename(str(found[0])) == moment:
        if seconds == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        # Nothing in the process handles this one: the system ends it at once, whatever it does by then.
        signal.setitimer(signal.ITIMER_PROF, float(seconds))

if moment:
    sys.addaudithook(end)
main(arguments)
"""

MOMENTS = {
    "while the builder runs": ("encode.segment.onnx", "0.05", signal.SIGPROF),
    "when only the name is missing": ("engines.json", "0", signal.SIGKILL),
}
"""The file that is opened then, how much of the processor's time is left from there, and what ends it."""


@pytest.fixture
def build(bundle_of, tmp_path, rtx_target):
    """Builds in a process of its own that is killed at a moment: its exit status and last line."""

    def run(moment="", seconds="0"):
        arguments = [
            "engines",
            "build",
            "--bundle",
            bundle_of(SMALLEST).folder,
            "--engines",
            tmp_path / "root",
        ]
        arguments += ["--flavour", "rtx", "--device-arch", rtx_target.capability]
        done = subprocess.run(
            [sys.executable, "-c", BUILD, moment, seconds, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    return run


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_is_found_and_the_next_makes_the_engines(
    build, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    for name, (*moment, ended_by) in MOMENTS.items():
        status, said = build(*moment)
        assert status == -ended_by, (name, said)
        assert list_engines(root) == [], name
        begun = {path.name for path in root.rglob("*") if "flashvsr-part" in str(path.parent)}
        assert "encode.segment.onnx" in begun, name
        assert ("engines.json" in begun) == (name == "when only the name is missing")
    status, said = build()
    assert status == 0, said
    (engines,) = list_engines(root)
    engines.check_contents()
    engines.check_files(engines.manifest.engines)
    # A build soon after may find them too young to be what a killed one left.
    monkeypatch.setattr(staging, "YOUNG_SECONDS", 0)
    staging.remove_leftovers(root)
    left = [path.name for path in root.iterdir() if path.name not in (engines.folder.name, ".locks")]
    assert left == []

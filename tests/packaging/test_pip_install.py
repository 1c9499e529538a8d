"""The line that says what pip is at."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci/pip_install.py"
stage = runpy.run_path(str(SCRIPT))["stage"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Collecting torch>=2.9 (from flashvsr-trt==0.1.0)\n", "Collecting torch>=2.9"),
        ("  Downloading torch-2.13.0.whl (900.1 MB)\n", "Downloading torch-2.13.0.whl (900.1 MB)"),
        ("Progress 450000000 of 900000000\n", "before: 450 of 900 MB"),
        ("Requirement already satisfied: pip\n", "before"),
        ("", "before"),
    ],
)
def test_what_pip_says_becomes_a_line(line, shown):
    assert stage(line, "before") == shown


def test_progress_replaces_progress():
    once = stage("Progress 1000000 of 9000000\n", "Downloading torch.whl")
    assert stage("Progress 2000000 of 9000000\n", once) == "Downloading torch.whl: 2 of 9 MB"


def test_a_failure_shows_what_pip_wrote_and_has_its_exit_code(tmp_path):
    command = [sys.executable, str(SCRIPT), "--no-index", str(tmp_path / "none.whl")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert "installing, 0:0" in ran.stdout
    assert "installed in" not in ran.stdout
    assert "none.whl" in ran.stderr

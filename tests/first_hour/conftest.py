"""The wheel, and a newcomer's clips."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.demo_clip import PHOTOGRAPH, damage, photograph_clip, write_clip
from tests.first_hour.newcomer import ROOT

PICTURES = ROOT / "build/first_hour"
"""Screenshots, to be looked at."""

FRAMES = 13


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def sharp_and_damaged():
    """Frames of a photograph, and what a camera and a codec leave of them at half the size."""
    sharp = photograph_clip(PHOTOGRAPH)[:FRAMES]
    return sharp, damage(sharp)


@pytest.fixture(scope="session")
def clips(tmp_path_factory, sharp_and_damaged) -> Path:
    """A folder of five clips, of which one is broken, and the sharp one beside it."""
    folder = tmp_path_factory.mktemp("clips")
    sharp, given = sharp_and_damaged
    write_clip(sharp, folder / "sharp.mp4")
    (folder / "clips").mkdir()
    for name in "abcd":
        write_clip(given[: 5 if name != "a" else None], folder / f"clips/{name}.mp4")
    (folder / "clips/broken.mp4").write_bytes((folder / "clips/a.mp4").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="session")
def pictures() -> Path:
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES

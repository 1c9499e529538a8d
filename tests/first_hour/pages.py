"""Every command block of README and the pages, typed on nano in one folder with the files that they name.

`make first-hour`. A line runs as it stands, but for sizes and presets that a CPU would take hours for.
What cannot run here is in ELSEWHERE with its reason.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.first_hour.newcomer import ROOT, Newcomer
from tests.page_commands import Line, page_lines, page_programs

pytestmark = pytest.mark.slow

SMALLER = {
    r"\b(sparse-2\.0|sparse-1\.5)\b": "nano",
    r"\bfull-attn\b": "nano-full-attn",
    r"\b(1280x768|640x360|768x768)\b": "256x256",
    r"\bWEIGHTS=random\b": "",
    r"--flavour tensorrt\b": "--flavour rtx",
}
"""What a line names -> what a CPU can do."""

ELSEWHERE = {
    r"pip install|\bvenv\b": "installs: tests/first_hour/hour.py does that from the wheel",
    r"^make (test|test-newest|format|demo|bench|first-hour|gate)": "tested by itself",
    r"^make engines": "builds engines of a GPU's sizes: tests/first_hour/hour.py builds nano's",
    r"weights pull": "6.4 GB from the network",
    r"--gpus|torchrun|cuda:|nvenc|--backend tensorrt|--precision fp8|--engines": "needs a GPU",
    r"^docker": "needs Docker",
    r"uvicorn|examples/": "tests/first_hour/hour.py",
    r"^eval": "of a shell's own start",
    r"^flashvsr-trt bench": "times for minutes: tests/cli has it",
    r"trtexec|tensorrt_rtx|g\+\+|run_engine": "needs TensorRT's own tools: tests/engines/test_run_engine.py",
    r"^python -m (bench|training)": "measures or trains, for minutes or on a GPU",
    r"weights convert|weights check|^cd ": "files that are not here: tests/cli/test_weights_cli.py",
    r"^ffmpeg -i in\.ts|^flashvsr-trt run any\.mp4|calibrate": "part of a text",
    r"^flashvsr-trt (gate|engines build|engines list)": "tests/bench/test_gate.py, tests/first_hour/hour.py",
}
"""What cannot run here, or runs elsewhere -> why."""

LINES = list(page_lines())


def reason(line: Line) -> str | None:
    """Why it does not run here."""
    return next((why for pattern, why in ELSEWHERE.items() if re.search(pattern, line.text)), None)


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """Someone whose folder has the files of the pages, in the environment of the tests."""
    folder = tmp_path_factory.mktemp("pages")
    home = folder / "home"
    home.mkdir()
    for name in ("input.mp4", "hdr.mkv", "interlaced.mpg", "a.mp4", "b.mp4", "sharp.mp4", "input.avi"):
        size = (128, 128) if name == "sharp.mp4" else (64, 64)
        codec = {".mpg": "mpeg2video", ".avi": "mpeg4"}.get(Path(name).suffix, "libx264")
        make_clip(home / name, frames=9, size=size, rate=24, codec=codec)
    (home / "frames.rgb").write_bytes(os.urandom(64 * 64 * 3 * 6))
    pictures = Newcomer(home, Path(sys.prefix), {"PYTHONPATH": str(ROOT)})
    (home / "pictures").mkdir()
    (home / "clips").mkdir()
    make_clip(home / "clips/c.mp4", frames=5, size=(64, 64))
    pictures.type("ffmpeg -v error -i input.mp4 pictures/%02d.png")
    return Newcomer(home, Path(sys.prefix), {"PYTHONPATH": str(ROOT), "FLASHVSR_PRESET": "nano"})


@pytest.mark.parametrize("line", [line for line in LINES if reason(line) is None], ids=str)
def test_a_line_of_a_page_runs(user, line):
    text = line.text
    for pattern, smaller in SMALLER.items():
        text = re.sub(pattern, smaller, text)
    for made in user.home.glob("*_2x.*"):
        if made.name != "input_2x.mp4":
            made.unlink()
    if re.fullmatch(r"flashvsr-trt run input\.mp4( --preset nano)?", text):
        (user.home / "input_2x.mp4").unlink(missing_ok=True)
    shutil.rmtree(user.home / "larger", ignore_errors=True)
    user.type(f"bash -c {shell_quoted(f'set -o pipefail; {text}')}")


AROUND = """
import numpy as np

def show(frames):
    assert frames.dtype == np.uint8 and (not len(frames) or frames.shape[1:] == (128, 128, 3))

first_frames = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
clip = iter(first_frames)
"""
"""What a program of a page takes for granted."""


@pytest.mark.parametrize(("page", "program"), page_programs(), ids=lambda part: part.split("\n")[0])
def test_a_program_of_a_page_runs(user, page, program):
    if "vapoursynth" in program:
        pytest.skip("tests/newest/test_vapoursynth.py runs it, on Python 3.12 and newer")
    (user.home / "output.mp4").unlink(missing_ok=True)
    small = program.replace("sparse-2.0", "nano").replace("height=360, width=640", "height=64, width=64")
    (user.home / "program.py").write_text(AROUND + small)
    user.type("python program.py")


def shell_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_no_reason_is_out_of_date(pattern):
    assert any(re.search(pattern, line.text) for line in LINES)

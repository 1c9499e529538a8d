"""What runs on any Python without torch, as `make test-newest` tests it; and a bundle made before."""

import json
import os
from importlib.util import find_spec

import pytest

from flashvsr_trt.extras import install_command
from tests.cli.command import spawn
from tests.clips import make_clip, probe

MADE_BEFORE = "MADE_BEFORE"
"""A cache folder that an environment with torch filled: it ran `RUN` on a clip of this size."""

RUN = ("--preset", "nano-full-attn", "--weights", "random:1", "--backend", "onnxruntime")
SIZE = (32, 64)


def finished(*arguments):
    """The exit code, stdout and stderr of a command."""
    process = spawn(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("run", "--help"), ("presets",), ("presets", "--json"), ("doctor",), ("doctor", "--json")],
    ids=" ".join,
)
def test_commands_that_need_nothing_print_and_end_well(arguments):
    code, out, err = finished(*arguments)
    assert (code, err) == (0, "")
    assert out
    if "--json" in arguments:
        json.loads(out)


def test_a_clip_compared_with_itself_prints_a_table(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=5)
    code, out, err = finished("compare", clip, clip)
    assert code == 0, err
    assert "PSNR" in out


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is here; make test-newest runs without it")
@pytest.mark.parametrize(
    ("backend", "install"),
    [("torch", "pip install torch"), ("onnxruntime", install_command("export")), ("tensorrt", "")],
)
def test_what_needs_torch_says_so_in_one_line(tmp_path, monkeypatch, backend, install):
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path / "cache"))
    clip = make_clip(tmp_path / "clip.mp4", frames=5)
    code, _, err = finished("run", clip, "--preset", "nano", "--backend", backend)
    assert code == 1
    assert "Traceback" not in err
    assert install in err.strip().splitlines()[-1]


@pytest.mark.skipif(MADE_BEFORE not in os.environ, reason="make test-newest makes one")
def test_a_run_takes_the_bundle_that_was_made_before(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHVSR_CACHE", os.environ[MADE_BEFORE])
    clip = make_clip(tmp_path / "clip.mp4", frames=7, size=SIZE, audio_tracks=1)
    code, _, err = finished("run", clip, *RUN)
    assert code == 0, err
    assert probe(tmp_path / "clip_2x.mp4").frames == 7
    assert "exporting" not in err

"""Several first runs at once: one makes the bundle, the others wait for it, and all write their videos."""

import pytest

from tests.cli.command import spawn
from tests.clips import make_clip

RUNS = 3


@pytest.mark.slow
def test_three_first_runs_at_once_make_one_bundle(tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4", frames=2, size=(64, 64))
    cache = tmp_path / "cache"
    # Three graphs, and not those of sparse attention: the fewest to wait for.
    options = ("--preset", "nano-full-attn", "--schedule", "low-latency", "--backend", "onnxruntime")
    monkeypatch.setenv("FLASHVSR_CACHE", str(cache))
    runs = [spawn("run", clip, "-o", tmp_path / f"{number}.mp4", *options) for number in range(RUNS)]
    told = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * RUNS, told
    assert all((tmp_path / f"{number}.mp4").exists() for number in range(RUNS))
    assert len(list(cache.glob("bundles/*/bundle.json"))) == 1
    assert sum("exporting" in lines for lines in told) == 1

"""Several first runs at once make one bundle in the cache, and what runs from there needs no torch."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import ExecutorRequest
from tests.cli.command import spawn
from tests.clips import make_clip
from tests.without_torch import FORBID_TORCH

pytestmark = pytest.mark.slow

RUNS = 3

PRESET, SCHEDULE, WEIGHTS = "nano-full-attn", "low-latency", "random:3"
"""Three graphs, and not those of sparse attention: the fewest to wait for."""

OPTIONS = ("--preset", PRESET, "--schedule", SCHEDULE, "--weights", WEIGHTS)

WITHOUT_TORCH = (
    FORBID_TORCH
    + """\
from flashvsr_trt.cli.main import main
main(sys.argv[1:])
"""
)


@dataclass(frozen=True)
class FirstRuns:
    """The clip, the cache that was empty, and of each run: its video, its exit code and what it told."""

    clip: Path
    cache: Path
    videos: tuple[Path, ...]
    codes: tuple[int, ...]
    told: tuple[str, ...]


@pytest.fixture(scope="module")
def first_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first_runs")
    clip = make_clip(folder / "clip.mp4", frames=6, size=(64, 64))
    videos = tuple(folder / f"{number}.mp4" for number in range(RUNS))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FLASHVSR_CACHE", str(folder / "cache"))
        runs = [spawn("run", clip, "-o", video, *OPTIONS, "--backend", "onnxruntime") for video in videos]
    told = tuple(run.communicate()[1] for run in runs)
    return FirstRuns(clip, folder / "cache", videos, tuple(run.returncode for run in runs), told)


@pytest.fixture(autouse=True)
def filled_cache(first_runs, monkeypatch):
    monkeypatch.setenv("FLASHVSR_CACHE", str(first_runs.cache))


def test_three_first_runs_at_once_make_one_bundle(first_runs):
    assert first_runs.codes == (0,) * RUNS, first_runs.told
    assert len({video.read_bytes() for video in first_runs.videos}) == 1
    assert len(list(first_runs.cache.glob("bundles/*/bundle.json"))) == 1
    (exporting,) = [told for told in first_runs.told if "exporting" in told]
    assert exporting.index("random weights (seed 3)") < exporting.index("exporting")


def test_a_later_run_says_whose_the_weights_are_and_exports_nothing(first_runs):
    stream = StreamConfig(find_preset(PRESET), Geometry(64, 64, 2), find_schedule(SCHEDULE))
    notices = []
    found = open_executor("onnxruntime", ExecutorRequest(stream, WEIGHTS), notices.append)
    (notice,) = notices
    assert "random weights (seed 3)" in notice
    assert [path.parent for path in first_runs.cache.glob("bundles/*/bundle.json")] == [found.bundle.folder]


def test_a_video_runs_from_the_cache_where_torch_cannot_be_imported(first_runs, tmp_path):
    process = spawn(
        "run", first_runs.clip, "-o", tmp_path / "made.mp4", *OPTIONS, python=("-c", WITHOUT_TORCH)
    )
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "exporting" not in told
    assert "backend onnxruntime: on the CPU" in told
    assert (tmp_path / "made.mp4").read_bytes() == first_runs.videos[0].read_bytes()

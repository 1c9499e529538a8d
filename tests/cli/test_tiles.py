"""`run --tile` and `--vram`: what is chosen, what is made, and what is refused."""

import json

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import UsageError
from flashvsr_trt.memory import MemoryEstimate
from flashvsr_trt.runtime.choose_tiles import choose_tiles
from flashvsr_trt.runtime.request import TileOptions
from tests.cli.command import assert_refused, call
from tests.cli.test_run import moving
from tests.clips import make_clip, probe

NANO = ("--preset", "nano", "--weights", "random", "--backend", "torch", "--schedule", "low-latency")


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=3, size=(100, 170), audio_tracks=1, picture=moving)


def test_auto_takes_the_fewest_tiles_that_fit(clip, tmp_path, capfd):
    report = tmp_path / "report.json"
    outcome = call(capfd, "run", clip, *NANO, "--vram", "240M", "--json", report)
    assert outcome.code == 0, outcome.err
    assert "2 tiles of 256x256" in outcome.err
    described = json.loads(report.read_text())["executor"]
    assert (described["tile"], described["tiles"]) == ([256, 256], 2)
    source, made = probe(clip), probe(tmp_path / "clip_2x.mp4")
    assert (made.frames, made.times, made.size) == (source.frames, source.times, (200, 340))


@pytest.mark.parametrize(("one_piece", "free", "fits"), [(1, 3, "off"), (10, 6, "256x256")])
def test_a_tile_that_does_not_fit_is_refused_with_one_that_does(one_piece, free, fits):
    stream = StreamConfig(find_preset("nano"), Geometry(128, 256, 2), find_schedule("official"))

    def estimate(_, plan):
        return MemoryEstimate(0, 0, (5 if plan.tile == (256, 256) else 9) if plan else one_piece)

    with pytest.raises(UsageError, match=f"--tile 384x256 needs .* --tile {fits} would fit"):
        choose_tiles(stream, TileOptions((256, 384)), estimate, free, "here", print)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--tile", "128x256"), 2, "the nearest is 256x256"),
        (("--tile", "300x300"), 2, "the nearest is 256x256"),
        (("--tile", "2x"), 2, "'2x' is neither auto, off nor a size"),
        (("--tile", "4096x4096", "--vram", "240M"), 2, "--tile 256x256 would fit"),
        (("--tile", "8192x8192", "--vram", "100M"), 2, "the least that this stream needs is"),
        (("--vram", "100M"), 2, "the least that this stream needs is"),
        (("--vram", "100M", "--tile", "off"), 2, "in one piece"),
        (("--vram", "8"), 2, "--vram 8 bytes is too little"),
        (("--vram", "0"), 2, "no amount of memory"),
        (("--vram", "8 apples"), 2, "no amount of memory"),
        (("--tile", "256x256", "--upsampler", "torch"), 2, "--upsampler pil"),
        (("--tile", "256x256", "--gpus", "2"), 2, "one GPU"),
        (("--vram", "8G", "--gpus", "2"), 2, "one GPU"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(clip, tmp_path, capfd, options, code, text):
    assert_refused(call(capfd, "run", clip, *NANO, *options), code, text)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_doctor_says_what_fits_a_gpu_of_so_much_memory(capfd):
    outcome = call(capfd, "doctor", "--vram", "12G", "--vram", "80G", "--json")
    rows = {(row["output"], row["vram"]): row for row in json.loads(outcome.out)}
    assert len(rows) == 10
    for row in rows.values():
        assert row["total"] <= row["vram"]
        assert (row["tile"] is None) == (row["in_one_piece"] <= row["vram"])
    assert rows["4K", 12]["tiles"] > rows["4K", 80]["tiles"] > 1
    lines = call(capfd, "doctor", "--vram", "12G").out.splitlines()
    assert "largest upscaled frame" in lines[0]
    assert len(lines) == 7


def test_doctor_says_the_memory_that_it_was_asked_about(capfd):
    lines = call(capfd, "doctor", "--vram", "1.5G", "--vram", "1T").out.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["1.5 GiB", "1024 GiB"]
    assert [" 1.5 GiB " in line for line in lines[3:]] == [True, False] * 5

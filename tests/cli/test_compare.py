"""`flashvsr-trt compare`: the numbers, the files it writes, and bad input."""

import json
import math
import os

import numpy as np
import pytest

from flashvsr_trt.quality.metrics import frame_quality
from flashvsr_trt.runtime.video.input import open_input
from tests.cli.command import assert_refused, call, names, spawn
from tests.clips import make_clip, make_images

SIZE = (48, 64)
MEASURES = ("luma_psnr", "luma_ssim", "rgb_psnr", "rgb_ssim")


def picture(index, height, width):
    """A moving wave with an edge."""
    row, column = np.mgrid[:height, :width]
    wave = 120 + 80 * np.sin((row + 3 * index) / 5) + np.where(column > 20 + index, 40, -40)
    return np.stack([wave, 255 - wave, wave / 2], axis=-1).clip(0, 255).astype(np.uint8)


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "a.mkv", frames=15, size=SIZE, picture=picture, options={"crf": "5"})


@pytest.fixture
def worse(tmp_path):
    return make_clip(tmp_path / "b.mkv", frames=15, size=SIZE, picture=picture, options={"crf": "40"})


def report_of(outcome):
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_report_holds_each_frame_as_the_metrics_give_it(clip, worse, capfd):
    report = report_of(call(capfd, "compare", clip, worse, "--json", "-"))
    with open_input(str(clip)) as a, open_input(str(worse)) as b:
        expected = [frame_quality(x.pixels, y.pixels) for x, y in zip(a, b, strict=True)]
    assert [row["frame"] for row in report["frames"]] == list(range(15))
    assert [row["luma_psnr"] for row in report["frames"]] == [quality.luma_psnr for quality in expected]
    assert [row["rgb_ssim"] for row in report["frames"]] == [quality.rgb_ssim for quality in expected]
    assert report["frames"][12]["seconds"] == pytest.approx(0.5, abs=1e-3)


def test_the_report_has_this_schema(clip, worse, tmp_path, capfd):
    outcome = call(capfd, "compare", clip, worse, "--json", tmp_path / "report.json")
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == {
        "a",
        "b",
        "size",
        "own_sizes",
        "frames_compared",
        "same_frame_count",
        "equal_frames",
        "summary",
        "chunk_borders",
        "frames",
        "versions",
    }
    assert report["a"] == {"input": str(clip), "frames": 15, "truncated": False}
    assert report["size"] == [64, 48]
    assert report["frames_compared"] == 15
    assert report["same_frame_count"] is True
    assert report["equal_frames"] == 0
    assert set(report["summary"]) == set(MEASURES)
    for measure in MEASURES:
        values = [row[measure] for row in report["frames"]]
        summary = report["summary"][measure]
        assert summary["mean"] == pytest.approx(np.mean(values))
        assert summary["worst"] == min(values) == values[summary["worst_frame"]]
    assert report["chunk_borders"]["frames"] == [5, 13]
    borders = [report["frames"][index]["luma_psnr"] for index in (5, 13)]
    assert report["chunk_borders"]["luma_psnr"] == pytest.approx(np.mean(borders))


def test_the_table_is_short_and_on_stdout(clip, worse, capfd):
    outcome = call(capfd, "compare", clip, worse)
    report = report_of(call(capfd, "compare", clip, worse, "--json", "-"))
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["measure", "mean", "worst", "at", "frame"]
    luma = report["summary"]["luma_psnr"]
    assert lines[1] == f"luma PSNR  {luma['mean']:.2f} dB  {luma['worst']:.2f} dB  {luma['worst_frame']}"
    assert len(lines) == 6
    assert "chunks begin (2 frames, from 5 on)" in lines[5]


def test_equal_videos_make_a_report_that_is_json(clip, capfd):
    report = report_of(call(capfd, "compare", clip, clip, "--json", "-"))
    assert report["equal_frames"] == 15
    assert report["summary"]["rgb_psnr"] == {"mean": None, "worst": None, "worst_frame": 0}
    assert report["summary"]["rgb_ssim"]["mean"] == pytest.approx(1)
    assert all(row["luma_psnr"] is None for row in report["frames"])
    outcome = call(capfd, "compare", clip, clip)
    assert "15 of 15 frames are equal" in outcome.out
    assert "inf" not in outcome.out


def test_a_change_of_one_level_has_its_closed_form(tmp_path, capfd):
    for name, level in (("a", 100), ("b", 101)):
        make_clip(
            tmp_path / f"{name}.mkv",
            frames=2,
            size=SIZE,
            codec="ffv1",
            pixel_format="bgr0",
            picture=lambda index, height, width, level=level: np.full((height, width, 3), level, np.uint8),
        )
    report = report_of(call(capfd, "compare", tmp_path / "a.mkv", tmp_path / "b.mkv", "--json", "-"))
    assert report["summary"]["rgb_psnr"]["mean"] == pytest.approx(20 * math.log10(255))


def test_images_and_a_video_of_the_same_frames_are_equal(tmp_path, capfd):
    images = make_images(tmp_path / "frames", frames=4, size=SIZE)
    video = make_clip(tmp_path / "a.mkv", frames=4, size=SIZE, codec="ffv1", pixel_format="bgr0")
    report = report_of(call(capfd, "compare", images, video, "--json", "-"))
    assert report["equal_frames"] == 4
    assert report_of(call(capfd, "compare", images / "%05d.png", images, "--json", "-"))["equal_frames"] == 4


def test_a_longer_video_is_compared_as_far_as_the_shorter_goes(clip, tmp_path, capfd):
    short = make_clip(tmp_path / "short.mkv", frames=9, size=SIZE, picture=picture)
    outcome = call(capfd, "compare", clip, short, "--json", "-")
    report = report_of(outcome)
    assert (report["a"]["frames"], report["b"]["frames"], report["frames_compared"]) == (15, 9, 9)
    assert report["same_frame_count"] is False
    assert "9 of 9 frames" in outcome.err
    notice = [line for line in outcome.err.splitlines() if "compared" in line]
    assert notice == [f"{clip} has 15 frames and {short} has 9: the first 9 are compared"]


def test_the_page_and_the_report_are_written_together(clip, worse, tmp_path, capfd):
    page, report = tmp_path / "page.html", tmp_path / "report.json"
    outcome = call(capfd, "compare", clip, worse, "--html", page, "--json", report)
    assert outcome.code == 0, outcome.err
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert f"A: {clip}" in page.read_text()
    assert json.loads(report.read_text())["frames_compared"] == 15
    assert names(tmp_path) == {"a.mkv", "b.mkv", "page.html", "report.json"}


def test_the_smaller_is_upscaled_with_bicubic_and_that_is_said(clip, tmp_path, capfd):
    other = make_clip(tmp_path / "other.mkv", size=(96, 128))
    page, report = tmp_path / "page.html", tmp_path / "report.json"
    outcome = call(capfd, "compare", clip, other, "--html", page, "--json", report)
    assert outcome.code == 0, outcome.err
    said = f"{clip} is 64x48 and {other} is 128x96: the smaller is upscaled with bicubic interpolation"
    assert outcome.err.splitlines()[0] == said
    assert f"{clip} was upscaled from 64x48 with bicubic interpolation" in outcome.out
    assert f"{clip} was upscaled from 64x48 with bicubic interpolation" in page.read_text()
    facts = json.loads(report.read_text())
    assert (facts["size"], facts["own_sizes"]) == ([128, 96], [[64, 48], [128, 96]])


def test_another_shape_is_said_too(clip, tmp_path, capfd):
    other = make_clip(tmp_path / "other.mkv", size=(96, 96))
    outcome = call(capfd, "compare", other, clip)
    assert outcome.code == 0, outcome.err
    assert "their shapes differ" in outcome.err.splitlines()[0]


def test_frames_too_small_for_ssim_are_refused(tmp_path, capfd):
    images = make_images(tmp_path / "frames", frames=2, size=(10, 64))
    assert_refused(call(capfd, "compare", images, images), 1, "64x10", "11 pixels")


def test_no_such_file(clip, tmp_path, capfd):
    absent = tmp_path / "absent.mkv"
    outcome = call(capfd, "compare", clip, absent, "--json", tmp_path / "report.json")
    assert_refused(outcome, 1, "absent.mkv", "no such file")
    assert names(tmp_path) == {"a.mkv"}


def test_a_file_that_is_no_video(clip, tmp_path, capfd):
    text = tmp_path / "notes.txt"
    text.write_text("these are notes")
    assert_refused(call(capfd, "compare", text, clip), 1, "notes.txt")


def test_a_truncated_video_is_compared_as_far_as_it_goes(tmp_path, capfd):
    whole = make_clip(tmp_path / "whole.mkv", frames=40, size=SIZE, picture=picture)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    outcome = call(capfd, "compare", whole, cut, "--json", "-")
    assert_refused(outcome, 3, "cut.mkv")
    report = json.loads(outcome.out)
    assert 0 < report["frames_compared"] < 40
    assert (report["a"]["frames"], report["a"]["truncated"]) == (40, False)
    assert (report["b"]["frames"], report["b"]["truncated"]) == (report["frames_compared"], True)


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_an_output_that_exists_is_kept(clip, tmp_path, capfd, option):
    existing = tmp_path / "existing"
    existing.write_text("precious")
    assert_refused(call(capfd, "compare", clip, clip, option, existing), 2, "existing", "--overwrite")
    assert existing.read_text() == "precious"
    assert call(capfd, "compare", clip, clip, option, existing, "--overwrite").code == 0
    assert existing.read_text() != "precious"


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_an_output_may_not_be_an_input(clip, worse, tmp_path, capfd, option):
    before = worse.read_bytes()
    assert_refused(call(capfd, "compare", clip, worse, option, worse, "--overwrite"), 2, "b.mkv", "input")
    assert worse.read_bytes() == before
    assert names(tmp_path) == {"a.mkv", "b.mkv"}


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_folder_that_cannot_be_written(clip, tmp_path, capfd, option):
    assert_refused(call(capfd, "compare", clip, clip, option, tmp_path / "missing" / "out"), 1, "missing")
    assert_refused(call(capfd, "compare", clip, clip, option, "/proc/out"), 1, "/proc/out")
    assert names(tmp_path) == {"a.mkv"}


def test_one_output_that_cannot_be_written_leaves_no_other(clip, tmp_path, capfd):
    outputs = ("--json", tmp_path / "report.json", "--html", tmp_path / "missing" / "page.html")
    assert_refused(call(capfd, "compare", clip, clip, *outputs), 1, "missing")
    assert names(tmp_path) == {"a.mkv"}


def test_a_full_disk_leaves_nothing(clip, worse, tmp_path):
    limited = (
        "-c",
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
        "from flashvsr_trt.cli.main import main; main()",
    )
    process = spawn("compare", clip, worse, "--html", tmp_path / "page.html", python=limited)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "page.html" in err.strip().splitlines()[-1]
    assert names(tmp_path) == {"a.mkv", "b.mkv"}


@pytest.mark.parametrize(
    "outputs", [("--html", "-"), ("--html", "same", "--json", "same")], ids=["stdout", "same file"]
)
def test_the_page_needs_a_file_of_its_own(clip, capfd, monkeypatch, tmp_path, outputs):
    monkeypatch.chdir(tmp_path)
    assert_refused(call(capfd, "compare", clip, clip, *outputs), 2, "--html", "file of its own")
    assert names(tmp_path) == {"a.mkv"}


def test_one_pipe_is_read_once(capfd):
    assert_refused(call(capfd, "compare", "-", "-"), 2, "one pipe")


def test_one_side_may_come_from_a_pipe(clip):
    with open(clip, "rb") as stream:
        process = spawn("compare", "-", clip, "--json", "-", stdin=stream)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["equal_frames"] == 15


def test_comparing_needs_no_torch(clip, worse, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['PIL'] = None;"
        "from flashvsr_trt.cli.main import main; main()"
    )
    process = spawn("compare", clip, worse, "--html", tmp_path / "page.html", python=("-c", code))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert os.path.getsize(tmp_path / "page.html")

"""`run` on several inputs, previews, split videos: what is written, and what the exit code says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.errors import DistributedError, FlashVSRError, UsageError
from flashvsr_trt.runtime.batch import is_batch, is_done, jobs_of, left_out, run_batch
from flashvsr_trt.runtime.distributed import executor
from flashvsr_trt.runtime.output_names import check_files
from flashvsr_trt.runtime.request import RunOptions
from flashvsr_trt.runtime.side_by_side import BeforeAndAfter, before
from tests.cli.command import assert_refused, call, names
from tests.clips import make_clip, make_images, probe

NANO = ("--preset", "nano", "--weights", "random", "--backend", "torch", "--schedule", "low-latency")


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    make_clip(folder / "a.mp4", frames=5, size=(64, 64))
    make_clip(folder / "b.mkv", frames=5, size=(64, 64))
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("no video either")
    return folder


def test_one_broken_file_does_not_stop_the_others_and_resume_skips_them(tmp_path, clips, capfd):
    out, report = tmp_path / "out", tmp_path / "out" / "report.json"
    other = make_clip(tmp_path / "c.mp4", frames=5, size=(64, 128))
    (tmp_path / "empty").mkdir()
    outcome = call(capfd, "run", clips, tmp_path / "empty", other, "-o", f"{out}/", *NANO, "--json", report)
    assert_refused(outcome, 1, "2 of 5 inputs", "broken.mp4 cannot be read", f"{tmp_path}/empty")
    assert_refused(call(capfd, "run", clips, "--preview", "0", *NANO), 2, "of one video")
    assert names(out) == {"a_2x.mp4", "b_2x.mkv", "c_2x.mp4", "report.json"}
    assert probe(out / "c_2x.mp4").size == (128, 256)
    states = [each["state"] for each in json.loads(report.read_text())["inputs"]]
    assert states == ["done", "done", "failed", "failed", "done"]
    # The weights are named once: they were loaded once, for two sizes.
    assert outcome.err.count("random weights (seed 0)") == 1
    # What is there is refused before any work, or skipped.
    assert_refused(call(capfd, "run", clips, other, "-o", out, *NANO), 2, "a_2x.mp4", "exists")
    (clips / "broken.mp4").unlink()
    (out / "b_2x.mkv").unlink()
    written = (out / "a_2x.mp4").stat().st_mtime_ns
    outcome = call(capfd, "run", clips, other, "-o", out, *NANO, "--resume")
    assert outcome.code == 0, outcome.err
    assert "3 inputs: 1 done, 2 skipped" in outcome.err
    assert (out / "a_2x.mp4").stat().st_mtime_ns == written
    assert names(out) == {"a_2x.mp4", "b_2x.mkv", "c_2x.mp4", "report.json"}


def options(**more) -> RunOptions:
    return RunOptions(input="", **more)


def test_outputs_beside_their_inputs_are_no_inputs_of_the_next_run(tmp_path):
    for name in ("a.mp4", "a_2x.mp4", "a_4x_side_by_side.mp4", "b.MKV", ".hidden.mp4"):
        (tmp_path / name).touch()
    jobs = jobs_of([str(tmp_path)], options())
    assert [job.input for job in jobs] == [str(tmp_path / name) for name in ("a.mp4", "b.MKV")]
    # Who names one means it.
    named = jobs_of([str(tmp_path / "a.mp4"), str(tmp_path / "a_2x.mp4")], options())
    assert [job.output for job in named] == [str(tmp_path / name) for name in ("a_2x.mp4", "a_2x_2x.mp4")]


def test_a_folder_of_videos_may_have_pictures_which_are_left_out_and_said(tmp_path):
    for name in ("a.mp4", "cover.jpg", "b.mkv", ".hidden.png"):
        (tmp_path / name).touch()
    assert is_batch([str(tmp_path)])
    assert [job.input for job in jobs_of([str(tmp_path)], options())] == [
        str(tmp_path / name) for name in ("a.mp4", "b.mkv")
    ]
    (line,) = left_out([str(tmp_path), str(tmp_path / "a.mp4")])
    assert "pictures (1) are left out" in line
    assert f"name {tmp_path}/*.jpg for them" in line
    # A shell that leaves a glob as it is, as Windows' do, means the same.
    assert [job.input for job in jobs_of([f"{tmp_path}/[a-b].*"], options())] == [
        str(tmp_path / name) for name in ("a.mp4", "b.mkv")
    ]
    for name in ("a.mp4", "b.mkv"):
        (tmp_path / name).unlink()
    assert not is_batch([str(tmp_path)])
    assert left_out([str(tmp_path)]) == []
    assert not is_batch([f"{tmp_path}/*.jpg"])
    assert not is_batch([f"{tmp_path}/*.mp4"])  # opening it says that there is none


def test_a_folder_of_pictures_is_not_its_own_output(tmp_path):
    folder = make_images(tmp_path / "in", frames=1)
    (tmp_path / "link").symlink_to(folder)
    for name in (folder, f"{folder}/", tmp_path / "link"):
        with pytest.raises(UsageError, match="is the input"):
            check_files(RunOptions(input=str(folder), output=str(name), overwrite=True))
    check_files(RunOptions(input=str(folder), output=str(tmp_path / "out"), overwrite=True))


@pytest.mark.parametrize(
    ("made", "output", "done"),
    [
        ("notes.txt", "out", False),
        ("00001.png", "out", True),
        ("00001.png", "out/%05d.png", True),
        ("other.png", "out/%05d.png", False),
    ],
)
def test_pictures_are_done_where_there_are_some(tmp_path, made, output, done):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / made).touch()
    job = RunOptions(input=str(make_images(tmp_path / "in", frames=1)), output=str(tmp_path / output))
    assert is_done(job) == done


@pytest.mark.parametrize(
    ("inputs", "output", "text"),
    [
        (("x/a.mp4", "y/a.mp4"), "out/", "several inputs would become"),
        (("a.mp4", "-"), "out/", "read once"),
        (("a.mp4", "b.mp4"), "out.mp4", "no folder"),
        (("a.mp4", "b.mp4"), "-", "no folder, and there are several inputs"),
        (("one",), "x.png", "no folder, and one is not one video"),
        (("empty", "empty"), None, "no video and no images in there"),
    ],
)
def test_what_several_inputs_cannot_be(tmp_path, monkeypatch, inputs, output, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.mp4").touch()
    with pytest.raises(FlashVSRError, match=text):
        jobs_of(inputs, options(output=output))


@pytest.mark.parametrize("output", ["out", "out/"])
def test_urls_go_into_a_folder_that_is_named(output):
    jobs = jobs_of(["http://host/a.mp4?key=1", "http://host/b.webm"], options(output=output))
    assert [job.output for job in jobs] == ["out/a_2x.mp4", "out/b_2x.webm"]


def test_lost_ranks_end_several_inputs():
    started = []

    def upscale(job):
        started.append(job.input)
        raise DistributedError("rank 1 ended")

    jobs = jobs_of(["a.mp4", "b.mp4"], options())
    with pytest.raises(DistributedError):
        run_batch(jobs, upscale, resume=False, notify=lambda line: None)
    assert started == ["a.mp4"]


def test_ranks_that_are_busy_with_a_failure_are_told_nothing_more(monkeypatch):
    busy = SimpleNamespace(device=torch.device("cpu"), size=2, working=True)
    monkeypatch.setattr(executor, "join_group", lambda *place: busy)
    request = options(preset="nano", weights="random").request(options(preset="nano").stream(64, 64))
    with pytest.raises(DistributedError, match="stopped at what failed before"):
        executor.open_distributed_executor(request, lambda line: None)


def test_a_preview_is_two_pictures_and_a_page(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=30, size=(64, 96))
    outcome = call(capfd, "run", clip, *NANO, "--preview", "0.5")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "clip_2x_preview"
    assert names(folder) == {"before.png", "after.png", "index.html"}
    assert {probe(folder / name).size for name in ("before.png", "after.png")} == {(128, 192)}
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "at 0.5 s, 96x64 to 192x128" in page
    assert "$" not in page
    assert_refused(call(capfd, "run", clip, *NANO, "--preview", "0.5"), 2, "preview")
    assert_refused(call(capfd, "run", clip, *NANO, "--preview", "0.5", "-ss", "1"), 2, "no use for --ss")
    # A folder of a video's name would stand in the way of that video.
    for name in (tmp_path / "out.mp4", "-"):
        assert_refused(call(capfd, "run", clip, *NANO, "--preview", "0.5", "-o", name), 2, "is no folder")
    assert_refused(call(capfd, "run", clip, *NANO, "--preview", "99", "-y"), 1, "clip.mp4")
    assert_refused(
        call(capfd, "run", clip, *NANO, "--preview", "1.45", "-y"), 1, "1.45 s: it ends at 1.250 s"
    )
    assert names(folder) == {"before.png", "after.png", "index.html"}


class Delayed:
    """A session that doubles frames and gives them three later."""

    def __init__(self):
        self.kept = []

    def push(self, frames):
        self.kept += list(frames.repeat(2, 1).repeat(2, 2))
        ready, self.kept = self.kept[:-3], self.kept[-3:]
        return np.array(ready, np.uint8).reshape(len(ready), 16, 32, 3)

    def flush(self):
        return np.array(self.kept, np.uint8)


def test_the_left_half_is_the_same_moment_before():
    frames = np.random.default_rng(0).integers(0, 256, (8, 8, 16, 3), np.uint8)
    geometry = Geometry(8, 16, 2)
    split = BeforeAndAfter(Delayed(), geometry)
    made = np.concatenate([split.push(frames[:2]), split.push(frames[2:]), split.flush()])
    assert made.shape == (8, 16, 32, 3)
    for frame, pixels in zip(made, frames, strict=True):
        np.testing.assert_array_equal(frame[:, :15], before(pixels, geometry)[:, :15])
        np.testing.assert_array_equal(frame[:, 17:], pixels.repeat(2, 0).repeat(2, 1)[:, 17:])
        assert (frame[:, 15:17] == 255).all()

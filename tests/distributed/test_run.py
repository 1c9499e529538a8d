"""`run` on several ranks: the same video, and one line when something is wrong."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch

from flashvsr_trt import __version__
from flashvsr_trt.config.presets import find_preset
from flashvsr_trt.runtime.distributed.executor import Identity
from tests.cli.command import ENDLESS, call, until_line
from tests.clips import make_clip
from tests.distributed.launch import ROOT, environment, torchrun

pytestmark = pytest.mark.slow

HANGS = 120
"""Seconds after which a job hangs; a rank that only waits in a collective would do so for half an hour."""

NANO = (
    *("--preset", "nano", "--weights", "random", "--schedule", "low-latency"),
    *("--device", "cpu", "--backend", "torch"),
)


def frames_of(video: Path) -> np.ndarray:
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def start_run(*arguments: object) -> subprocess.Popen:
    """`flashvsr-trt run ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "flashvsr_trt", "run", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def errors_in(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("error:") or "Traceback" in line]


def test_two_gpus_write_the_video_of_one(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=13, size=(64, 64), audio_tracks=1)
    lossless = ("--codec", "libx264rgb", "--crf", "0")
    one = call(capfd, "run", clip, *NANO, *lossless, "-o", tmp_path / "one.mkv")
    assert one.code == 0, one.err
    process = start_run(clip, *NANO, *lossless, "-o", tmp_path / "two.mkv", "--gpus", 2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    expected, made = (frames_of(tmp_path / f"{name}.mkv").astype(np.int16) for name in ("one", "two"))
    assert made.shape == expected.shape == (13, 128, 128, 3)
    assert np.abs(made - expected).max() <= 1


def test_several_inputs_go_through_the_ranks_one_after_another(tmp_path, capfd):
    clips = [
        make_clip(tmp_path / f"{name}.mp4", frames=5, size=size)
        for name, size in (("a", (64, 64)), ("b", (64, 128)), ("d", (64, 64)))
    ]
    (tmp_path / "c.mp4").write_bytes(b"no video")
    options = (*NANO, "--codec", "libx264rgb", "--crf", "0", "--schedule", "low-latency", "-o")
    one = call(capfd, "run", *clips, *options, tmp_path / "one")
    assert one.code == 0, one.err
    process = start_run(*clips[:2], tmp_path / "c.mp4", clips[2], *options, tmp_path / "two", "--gpus", 2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "4 inputs: 3 done, 1 failed" in errors
    assert errors.count("random weights") == 1  # loaded once
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [f"{n}_2x.mp4" for n in "abd"]
    for name in "abd":
        expected, made = (frames_of(tmp_path / ranks / f"{name}_2x.mp4") for ranks in ("one", "two"))
        assert np.abs(made.astype(np.int16) - expected).max() <= 1


def test_several_inputs_end_with_a_lost_rank(tmp_path):
    (tmp_path / "a.rgb").write_bytes(bytes(64 * 64 * 3 * 5))
    process = start_run(tmp_path / "a.rgb", *ENDLESS, *NANO, "-o", tmp_path / "out", "--gpus", 2)
    seen = until_line(process, "[0-9]+ frames, ")
    (worker,) = [
        child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"
    ]
    worker.send_signal(signal.SIGKILL)
    _, rest = process.communicate(timeout=HANGS)
    assert process.returncode == 1, seen + rest
    (line,) = errors_in(seen + rest)
    assert f"rank 1 (process {worker.pid})" in line
    assert line.endswith("out/a_2x.mkv was written")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_2x.mkv"]


@pytest.mark.parametrize("ended", ["killed rank", "SIGINT", "SIGHUP"])
def test_a_job_that_loses_a_rank_says_so_once_and_leaves_nothing(tmp_path, ended):
    process = start_run(*ENDLESS, *NANO, "-o", tmp_path / "made.mp4", "--gpus", 2)
    seen = until_line(process, "[0-9]+ frames, ")
    if ended == "killed rank":
        (worker,) = [
            child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"
        ]
        worker.send_signal(signal.SIGKILL)
        code, expected = 1, f"rank 1 (process {worker.pid})"
    else:
        process.send_signal(signal.Signals[ended])
        code = 128 + signal.Signals[ended]
        # A rank that dies of the signal may be taken for the cause.
        expected = "interrupted" if ended == "SIGINT" else "nothing was written"
    _, rest = process.communicate(timeout=HANGS)
    assert process.returncode == code, seen + rest
    lines = [line for line in (seen + rest).splitlines() if "nothing was written" in line]
    assert len(lines) == 1, seen + rest
    assert expected in lines[0]
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("random:0,random:1", r"rank 1 has weights random.*, and rank 0 has .*every rank with the same"),
        ("random:0,random:x", "rank 1 cannot start: .*random:x"),
    ],
)
def test_ranks_that_differ_are_refused_at_the_start(tmp_path, weights, message):
    clip = make_clip(tmp_path / "clip.mp4", frames=5, size=(64, 64))
    job = torchrun(2, "tests.distributed.differing_job", weights, "run", clip, "-o", tmp_path / "made.mp4")
    assert job.returncode != 0
    (line,) = [line for line in job.stderr.splitlines() if line.startswith("error:")]
    assert re.search(message, line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4"]


@pytest.mark.parametrize("name", ["version", "torch", "preset", "weights", "device"])
def test_every_part_of_a_ranks_identity_counts(name):
    ours = {"version": __version__, "torch": "2", "preset": "nano", "weights": "a", "device": "cpu"}
    theirs = ours | {name: "another"}
    assert Identity(**ours).difference(Identity(**ours)) is None
    assert Identity(**ours).difference(Identity(**theirs)) == f"{name} another, and rank 0 has {ours[name]}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", "0", "--device", "cpu"), "'--gpus': 0 is not in the range"),
        (("--gpus", "2", "--device", "cpu", "--backend", "onnxruntime"), "--backend onnxruntime"),
        (("--gpus", "2", "--device", "cpu", "--compile"), "--compile"),
        (("--gpus", "2", "--device", "cuda:0"), "--device cuda:0"),
    ],
)
def test_options_that_several_ranks_cannot_have_are_usage_errors(tmp_path, capfd, options, message):
    clip = make_clip(tmp_path / "clip.mp4", frames=5, size=(64, 64))
    outcome = call(capfd, "run", clip, "--preset", find_preset("nano").name, *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert errors_in(outcome.err) == outcome.err.splitlines()[-1:]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_ranks_than_gpus_is_a_usage_error(tmp_path, capfd, device):
    wanted = torch.cuda.device_count() + 2
    clip = make_clip(tmp_path / "clip.mp4", frames=5, size=(64, 64))
    outcome = call(capfd, "run", clip, "--preset", "nano", "--device", device, "--gpus", wanted)
    assert outcome.code == 2
    assert f"{wanted} ranks need {wanted} GPUs" in outcome.err


def test_torchrun_and_gpus_must_name_the_same_number(tmp_path, capfd, monkeypatch):
    job = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in job.items():
        monkeypatch.setitem(os.environ, name, value)
    outcome = call(capfd, "run", tmp_path / "clip.mp4", "--preset", "nano", "--gpus", 3)
    assert outcome.code == 2
    assert "--gpus 3 under torchrun with 2 ranks" in outcome.err

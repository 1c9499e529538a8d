"""Bad input to `flashvsr-trt run`: one clear line, an exit code, and nothing lost or left behind."""

import os
import signal
import sys

import av
import huggingface_hub
import numpy as np
import psutil
import pytest

from tests.cli.command import ENDLESS, EVERY_LINE, assert_refused, call, names, spawn, until_line
from tests.clips import make_clip, make_images, probe

NANO = ("--preset", "nano", "--weights", "random", "--backend", "torch")


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=4, size=(64, 64))


def test_no_such_file(tmp_path, capfd):
    assert_refused(call(capfd, "run", tmp_path / "nowhere.mp4", *NANO), 1, "nowhere.mp4")
    assert names(tmp_path) == set()


def test_not_a_video(tmp_path, capfd):
    text = tmp_path / "notes.mp4"
    text.write_text("these are notes")
    assert_refused(call(capfd, "run", text, *NANO), 1, "notes.mp4")
    assert names(tmp_path) == {"notes.mp4"}


def test_a_file_with_no_video_stream(tmp_path, capfd):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    assert_refused(call(capfd, "run", path, "-o", tmp_path / "out.mp4", *NANO), 1, "no video")
    assert names(tmp_path) == {"sound.wav"}


def test_zero_frames(tmp_path, capfd):
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    assert_refused(call(capfd, "run", empty, *NANO), 1, "empty.mp4")
    folder = tmp_path / "frames"
    folder.mkdir()
    assert_refused(call(capfd, "run", folder, *NANO), 1, "frames")
    assert names(tmp_path) == {"empty.mp4", "frames"}


def test_a_start_after_the_last_frame(clip, tmp_path, capfd):
    outcome = call(capfd, "run", clip, *NANO, "--start", 400)
    assert_refused(outcome, 1, "clip.mp4")
    assert names(tmp_path) == {"clip.mp4"}


def test_one_frame_of_one_pixel_works(tmp_path, capfd):
    folder = tmp_path / "dot"
    folder.mkdir()
    make_images(folder, frames=1, size=(1, 1))
    outcome = call(capfd, "run", folder, *NANO)
    assert outcome.code == 0, outcome.err
    made = list((tmp_path / "dot_2x").iterdir())
    assert len(made) == 1
    with av.open(str(made[0])) as image:
        frame = next(image.decode(video=0))
        assert (frame.width, frame.height) == (2, 2)


def test_a_frame_size_that_changes_midway(tmp_path, capfd):
    folder = tmp_path / "frames"
    folder.mkdir()
    make_images(folder, frames=2, size=(64, 64))
    make_images(folder, frames=1, size=(64, 80), first=3)
    outcome = call(capfd, "run", folder, "-o", tmp_path / "out.mp4", *NANO)
    assert_refused(outcome, 1, "80x64", "64x64")
    assert names(tmp_path) == {"frames"}


def test_a_truncated_file_keeps_what_could_be_decoded(tmp_path, capfd):
    whole = make_clip(tmp_path / "whole.mkv", frames=40, size=(64, 64))
    cut = tmp_path / "cut.mkv"
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    outcome = call(capfd, "run", cut, *NANO)
    assert_refused(outcome, 3, "cut.mkv")
    made = probe(tmp_path / "cut_2x.mkv")
    assert 0 < made.frames < 40
    assert str(made.frames) in outcome.err.strip().splitlines()[-1]


def test_an_output_that_exists_is_kept(clip, tmp_path, capfd):
    existing = tmp_path / "clip_2x.mp4"
    existing.write_text("precious")
    assert_refused(call(capfd, "run", clip, *NANO), 2, "clip_2x.mp4", "--overwrite")
    assert existing.read_text() == "precious"
    assert call(capfd, "run", clip, *NANO, "--overwrite").code == 0
    assert probe(existing).frames == 4


def test_the_output_may_not_be_the_input(clip, capfd):
    before = clip.read_bytes()
    assert_refused(call(capfd, "run", clip, "-o", clip, *NANO, "--overwrite"), 2, "input")
    assert clip.read_bytes() == before


def test_a_folder_that_does_not_exist(clip, tmp_path, capfd):
    outcome = call(capfd, "run", clip, "-o", tmp_path / "missing" / "out.mp4", *NANO)
    assert_refused(outcome, 1, "missing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: covered by the next test")
def test_a_folder_that_may_not_be_written(clip, tmp_path, capfd):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    assert_refused(call(capfd, "run", clip, "-o", folder / "out.mp4", *NANO), 1, "closed")


def test_an_output_where_no_file_can_be_made(clip, capfd):
    outcome = call(capfd, "run", clip, "-o", "/proc/out.mp4", *NANO)
    assert_refused(outcome, 1, "/proc/out.mp4")


def test_a_full_disk(clip, tmp_path):
    limited = (
        "-c",
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
        "from flashvsr_trt.cli.main import main; main()",
    )
    process = spawn("run", clip, *NANO, python=limited)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "clip_2x.mp4" in last
    assert names(tmp_path) == {"clip.mp4"}


def test_an_unknown_preset_names_the_nearest(clip, capfd):
    assert_refused(call(capfd, "run", clip, "--preset", "sparse-2"), 2, "'sparse-2'", "sparse-2.0")


def test_wrong_weights_name_what_they_lack(clip, tmp_path, capfd):
    folder = tmp_path / "weights"
    folder.mkdir()
    assert_refused(call(capfd, "run", clip, "--weights", folder), 1, "LQ_proj_in.ckpt")


def test_no_weights_at_all_says_how_to_get_them(clip, capfd, monkeypatch, tmp_path):
    monkeypatch.delenv("FLASHVSR_WEIGHTS", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert_refused(call(capfd, "run", clip), 1, "weights pull")


@pytest.mark.parametrize(
    ("backend", "preset", "available", "texts"),
    [
        ("torch", "sparse-2.0", 2**28, ("GiB free", "128x128", "needs about", "preset nano")),
        ("onnxruntime", "sparse-2.0", 2**28, ("GiB free", "128x128", "needs about", "preset nano")),
        ("onnxruntime", "nano", 2**29 + 2**26, ("1024x256", "needs about", "would fit")),
        ("torch", "nano", 2**29, ("1024x256", "needs about", "would fit")),
    ],
)
def test_a_size_that_needs_more_memory_than_there_is(
    tmp_path, capfd, monkeypatch, backend, preset, available, texts
):
    size = (128, 512) if preset == "nano" else (64, 64)
    clip = make_clip(tmp_path / "clip.mp4", frames=1, size=size)
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path / "cache"))
    memory = psutil.virtual_memory()._replace(available=available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    options = ("--preset", preset, "--weights", "random", "--backend", backend, "--tile", "off")
    outcome = call(capfd, "run", clip, *options)
    assert_refused(outcome, 1, *texts)
    assert "exporting" not in outcome.err
    assert names(tmp_path) == {"clip.mp4"}


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--device", "tpu", "tpu"),
        ("--device", "cuda:7", "cuda:7"),
        ("--dtype", "float8", "float8"),
        ("--backend", "openvino", "openvino"),
        ("--seed", "-3", "-3"),
        ("--frames", "0", "0"),
        ("--start", "-1", "-1"),
        ("--codec", "nocodec", "nocodec"),
        ("--scale", "3", "3"),
        ("--chunk-size", "12", "12"),
        ("--encoder-option", "fast", "fast"),
        ("--rate", "quick", "quick"),
        ("--raw-size", "64", "64"),
    ],
)
def test_an_option_with_a_value_that_cannot_be_used(clip, tmp_path, capfd, option, value, text):
    outcome = call(capfd, "run", clip, *NANO, option, value)
    assert outcome.code in (1, 2)
    assert text in outcome.err.strip().splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert names(tmp_path) == {"clip.mp4"}


def test_a_pipe_needs_an_output_name(capfd):
    assert_refused(call(capfd, "run", "-", *NANO), 2, "-o")


def test_a_report_that_cannot_be_written_is_refused_before_the_work(clip, tmp_path, capfd):
    outcome = call(capfd, "run", clip, *NANO, "--json", tmp_path / "missing" / "report.json")
    assert_refused(outcome, 2, "report.json")
    assert names(tmp_path) == {"clip.mp4"}


def test_debug_shows_where_an_error_came_from(tmp_path):
    process = spawn("--debug", "run", tmp_path / "nowhere.mp4", *NANO)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted; nothing was written"),
        (signal.SIGTERM, 143, "ended by SIGTERM; nothing was written"),
    ],
)
def test_a_signal_ends_at_once_and_leaves_nothing(tmp_path, number, code, said):
    process = spawn("run", *ENDLESS, *NANO, "-o", tmp_path / "out.mp4", python=EVERY_LINE)
    seen = until_line(process, "[1-9][0-9]* frames, ")
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, seen + err
    assert err.strip().splitlines()[-1] == said
    assert names(tmp_path) == set()


def test_the_command_line_starts_without_torch():
    process = spawn(python=("-c", "import sys, flashvsr_trt.cli.main; sys.exit('torch' in sys.modules)"))
    assert process.wait(timeout=120) == 0, sys.executable

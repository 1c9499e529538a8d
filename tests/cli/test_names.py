"""Names of all kinds, in and out: a file that exists is that file, and `-` is stdin or stdout."""

import io
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.output_names import chosen_output, default_output
from flashvsr_trt.runtime.request import RunOptions
from tests.cases import NANO, run_in
from tests.cli.command import ROOT, call, names
from tests.clips import gray_level, make_clip, make_images, probe

FILE_NAMES = (
    b"Some title [dQw4w9WgXcQ].mp4",
    b"100% real.mp4",
    b"what? ok.mp4",
    b"5 * stars.mp4",
    b"50%done.mp4",
    b"%05d.mp4",
    b"Movie: the sequel.mp4",
    b"concat:clip.mp4",
    b"http:clip.mp4",
    b"-dash.mp4",
    b"two\nlines.mp4",
    b"caf\xe9.mp4",
    "動画 😀.mp4".encode(),
    b"y" * 248 + b".mp4",
    b" .mp4",
    b"{1,2}~.mp4",
)


@pytest.mark.parametrize("name", FILE_NAMES, ids=ascii)
def test_a_file_is_itself_whatever_its_name_holds(tmp_path, monkeypatch, capfd, name):
    make_clip(tmp_path / "x.mp4", frames=2, audio_tracks=1)
    name = os.fsdecode(name)
    (tmp_path / "x.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    outcome = call(capfd, "run", *NANO, "--json", "-", "--", name)
    assert outcome.code == 0, outcome.err
    made = f"{name[:-4]}_2x.mp4"
    assert names(tmp_path) == {name, made}
    assert len(probe(tmp_path / made).audio) == 1


def test_names_that_are_no_text_are_printed_and_compared(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    make_clip(tmp_path / "x.mp4", frames=2).rename(tmp_path / name)
    command = [sys.executable, "-m", "flashvsr_trt", "compare", name, name, "--html", "page.html"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    missing = subprocess.run(
        [*command[:4], "b\udce9", "b\udce9"], cwd=tmp_path, capture_output=True, timeout=120, env=environment
    )
    assert missing.returncode == 1
    assert b"Traceback" not in missing.stderr


@pytest.mark.parametrize("name", ["%05d.png", "*.png", ".", "./", "../[shot] 100%/", "../[shot] 100%/*.png"])
def test_images_of_the_folder_one_is_in(tmp_path, monkeypatch, capfd, name):
    folder = tmp_path / "[shot] 100%"
    folder.mkdir()
    make_images(folder, frames=3)
    monkeypatch.chdir(folder)
    outcome = call(capfd, "run", name, *NANO)
    assert outcome.code == 0, outcome.err
    assert names(tmp_path) == {folder.name, f"{folder.name}_2x"}
    assert len(names(tmp_path / f"{folder.name}_2x")) == 3


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        *[(same, same) for same in (".mp4", ".mkv", ".mov", ".webm", ".avi", ".ts", ".flv", ".m4v", ".MP4")],
        *[(other, ".mkv") for other in (".gif", ".ogv", ".y4m", ".divx", ".yuv", ".rm", "")],
        *[(picture, ".png") for picture in (".png", ".JPG", ".tif")],
    ],
)
def test_a_default_output_has_a_container_that_holds_it(tmp_path, suffix, expected):
    clip = tmp_path / f"clip{suffix}"
    clip.touch()
    assert default_output(str(clip), 2) == str(tmp_path / f"clip_2x{expected}")


@pytest.mark.parametrize("suffix", ["gif", "y4m"])
def test_inputs_of_containers_that_hold_no_h264_work_by_default(tmp_path, capfd, suffix):
    codec, pixels = {"gif": ("gif", "rgb8"), "y4m": ("rawvideo", "yuv420p")}[suffix]
    clip = make_clip(tmp_path / f"clip.{suffix}", frames=3, codec=codec, pixel_format=pixels, options={})
    outcome = call(capfd, "run", clip, *NANO)
    assert outcome.code == 0, outcome.err
    assert probe(tmp_path / "clip_2x.mkv").frames == 3


@pytest.mark.parametrize(
    ("source", "output", "expected"),
    [
        ("clip.mp4", "there", "there"),
        ("clip.mp4", "new", "new"),
        ("clip.mp4", "there/", "there/clip_2x.mp4"),
        ("clip.mp4", "new/", "new/clip_2x.mp4"),
        ("file:clip.mp4", "file:new/", "new/clip_2x.mp4"),
        ("clip.y4m", "two.parts/", "two.parts/clip_2x.mkv"),
        ("photo.jpg", "there/", "there/photo_2x.png"),
        ("http://host/some/clip.mov?key=1", "there/", "there/clip_2x.mov"),
        ("clip.mp4", "there/%05d.png", "there/%05d.png"),
        ("clip.mp4", "one.png", "one.png"),
        ("pictures", "there", "there"),
        ("pictures/%05d.png", "there/", "there/"),
    ],
)
def test_a_folder_takes_a_video_under_its_name_and_numbered_pictures(
    tmp_path, monkeypatch, source, output, expected
):
    monkeypatch.chdir(tmp_path)
    for folder in ("there", "pictures"):
        (tmp_path / folder).mkdir()
    assert chosen_output(RunOptions(input=source, output=output)) == expected


@pytest.mark.parametrize("name", ["-", "http://host/"])
def test_a_folder_for_an_input_without_a_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="has no name for a video"):
        chosen_output(RunOptions(input=name, output=f"{tmp_path}/"))


def test_a_new_folder_is_made_for_a_video_and_goes_again_where_it_fails(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mkv", frames=2, size=(64, 64))
    target = tmp_path / "new" / "deep"
    assert call(capfd, "run", clip, "-o", f"{target}/", *NANO, "--codec", "nonsense").code == 2
    assert not target.parent.exists()
    outcome = call(capfd, "run", clip, "-o", f"{clip}/", *NANO)
    assert outcome.code == 1
    assert f"{clip} is no folder; name another" in outcome.err
    outcome = call(capfd, "run", clip, "-o", f"{target}/", *NANO, "--json", target / "report.json")
    assert outcome.code == 0, outcome.err
    assert probe(target / "clip_2x.mkv").frames == 2
    assert names(target) == {"clip_2x.mkv", "report.json"}


def test_a_picture_becomes_a_picture(tmp_path, capfd):
    picture = make_images(tmp_path / "in", frames=1, size=(64, 64))
    photo = shutil.move(next(Path(picture).iterdir()), tmp_path / "photo.png")
    outcome = call(capfd, "run", photo, *NANO)
    assert outcome.code == 0, outcome.err
    with av.open(tmp_path / "photo_2x.png") as made:
        assert [(frame.width, frame.height) for frame in made.decode(video=0)] == [(128, 128)]


@pytest.mark.parametrize("name", ["-", "http://host/clip.mp4", "/"])
def test_an_input_without_a_place_needs_an_output(name):
    with pytest.raises(UsageError, match="-o OUT"):
        default_output(name, 2)


@pytest.mark.parametrize(
    ("target", "container"), [("-", None), ("-", "y4m"), ("/dev/stdout", "matroska"), ("pipe:1", None)]
)
def test_a_video_goes_from_stdin_to_stdout(tmp_path, target, container):
    clip = make_clip(tmp_path / "clip.mkv", frames=12, rate=25)
    more = ("--format", container) if container else ()
    done = run_in(tmp_path, "-", "-o", target, *more, stdin=clip.read_bytes())
    assert done.returncode == 0, done.stderr
    with av.open(io.BytesIO(done.stdout)) as made:
        assert made.format.name.startswith("yuv4mpeg" if container == "y4m" else "matroska")
        frames = list(made.decode(video=0))
        assert made.streams.video[0].average_rate == 25
    levels = [int(frame.to_ndarray(format="gray")[48, 64]) for frame in frames]
    assert len(levels) == 12
    assert all(abs(level - gray_level(index)) < 9 for index, level in enumerate(levels))
    assert names(tmp_path) == {"clip.mkv"}


def test_a_reader_of_the_video_that_goes_away_ends_the_run_quietly(tmp_path):
    # It goes while frames are still being upscaled: the schedule writes the first of them soon.
    make_clip(tmp_path / "clip.mkv", frames=30)
    script = f"{sys.executable} -m flashvsr_trt run clip.mkv -o - --format y4m {' '.join(NANO)} | head -c 9"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f"{script}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 141, done.stderr
    assert b"error" not in done.stderr
    assert done.stdout == b"YUV4MPEG2"


def test_a_terminal_and_a_report_are_no_place_for_the_video(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mkv", frames=2)
    outcome = call(capfd, "run", clip, "-o", "-", "--json", "-", *NANO)
    assert (outcome.code, outcome.out) == (2, "")
    assert "cannot both go to stdout" in outcome.err
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "flashvsr_trt", "run", str(clip), "-o", "-", *NANO]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=its_end, stderr=subprocess.PIPE, timeout=120, env=environment)
    os.close(its_end)
    os.close(terminal)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


@pytest.mark.parametrize("frames", [1, 8, 22, 26])
@pytest.mark.parametrize("schedule", ["official", "low-latency"])
def test_every_frame_comes_out_in_order(tmp_path, capfd, frames, schedule):
    make_clip(tmp_path / "clip.mp4", frames=frames, size=(32, 32))
    outcome = call(capfd, "run", tmp_path / "clip.mp4", *NANO, "--schedule", schedule)
    assert outcome.code == 0, outcome.err
    made = probe(tmp_path / "clip_2x.mp4")
    assert made.frames == frames
    assert all(abs(level - gray_level(index)) < 9 for index, level in enumerate(made.levels))

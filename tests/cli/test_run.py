"""`flashvsr-trt run` on real files: what comes out, and what stays as it was."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.cli.command import call
from tests.clips import NTSC, Probe, irregular_pts, make_clip, make_images, probe

NANO = ("--preset", "nano", "--weights", "random", "--backend", "torch")


def moving(index: int, height: int, width: int) -> np.ndarray:
    """A bright square that moves over a gradient."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 200, width, dtype=np.uint8)
    left = index * 3 % max(width - 8, 1)
    picture[4:12, left : left + 8] = 255
    return picture


def shown_until(video: Probe) -> Fraction:
    """When the last frame ends. (mp4 stores the sum of decoding times too, which reordering changes.)"""
    return video.times[-1] + video.durations[-1] * video.time_base


CLIPS = {
    "one frame": {"frames": 1, "size": (64, 64)},
    "five frames with audio": {"frames": 5, "size": (64, 96), "audio_tracks": 1},
    "eight frames at 29.97": {"frames": 8, "size": (64, 64), "rate": NTSC, "audio_tracks": 1},
    "21 frames of varying length": {
        "frames": 21,
        "size": (96, 64),
        "time_base": Fraction(1, 1000),
        "pts": irregular_pts(21),
        "audio_tracks": 2,
    },
    "22 frames, odd sides": {"frames": 22, "size": (33, 61)},
    "five frames of 322x181": {"frames": 5, "size": (181, 322), "audio_tracks": 1},
    "100 frames": {"frames": 100, "size": (64, 64), "audio_tracks": 1},
}


@pytest.mark.parametrize("name", CLIPS)
def test_frames_sizes_times_and_audio_are_kept(tmp_path, capfd, name):
    settings = {"pixel_format": "yuv444p"} if any(side % 2 for side in CLIPS[name]["size"]) else {}
    clip = make_clip(tmp_path / "clip.mp4", picture=moving, **(settings | CLIPS[name]))
    before = clip.read_bytes()
    # The large clip takes the schedule whose first call is short, for the test's own speed.
    schedule = "low-latency" if "322" in name else "official"
    outcome = call(capfd, "run", clip, *NANO, "--schedule", schedule, "--json", tmp_path / "report.json")
    assert outcome.code == 0, outcome.err

    assert clip.read_bytes() == before
    source, made = probe(clip), probe(tmp_path / "clip_2x.mp4")
    assert made.size == (source.size[0] * 2, source.size[1] * 2)
    assert made.frames == source.frames
    assert made.times == source.times
    assert shown_until(made) == shown_until(source)
    assert made.audio == source.audio
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["frames"] == source.frames
    assert report["size"]["output"] == [made.size[1], made.size[0]]
    assert report["preset"] == "nano"
    assert report["seed"] == 0
    assert report["executor"]["backend"]
    assert {"encode", "dit", "decode", "read", "write"} <= set(report["stage_seconds"])
    assert "random weights (seed 0)" in outcome.err


def test_the_schedules_and_chunk_sizes_write_every_frame(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=19, size=(64, 64), picture=moving)
    for schedule in ("official", "low-latency"):
        for chunk_size in (8, 16):
            out = tmp_path / f"{schedule}_{chunk_size}.mkv"
            options = ("--schedule", schedule, "--chunk-size", chunk_size)
            outcome = call(capfd, "run", clip, "-o", out, *NANO, *options)
            assert outcome.code == 0, outcome.err
            assert probe(out).frames == 19


def test_scale_4_and_centre_crop_give_their_sizes(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=3, size=(40, 36), picture=moving)
    assert call(capfd, "run", clip, *NANO, "--scale", "4").code == 0
    assert probe(tmp_path / "clip_4x.mp4").size == (160, 144)
    cropped = tmp_path / "cropped.mp4"
    assert call(capfd, "run", clip, "-o", cropped, *NANO, "--scale", "4", "--fit", "crop").code == 0
    assert probe(cropped).size == (128, 128)


def test_start_and_frames_choose_the_part(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=24, size=(64, 64), picture=moving, audio_tracks=1)
    outcome = call(capfd, "run", clip, *NANO, "--start", 6, "--frames", 10)
    assert outcome.code == 0, outcome.err
    assert probe(tmp_path / "clip_2x.mp4").frames == 10


def test_a_folder_of_images_becomes_a_folder_of_images(tmp_path, capfd):
    folder = tmp_path / "frames"
    folder.mkdir()
    make_images(folder, frames=5, size=(64, 64))
    outcome = call(capfd, "run", folder, *NANO)
    assert outcome.code == 0, outcome.err
    made = sorted((tmp_path / "frames_2x").iterdir())
    assert len(made) == 5
    with av.open(str(made[0])) as image:
        frame = next(image.decode(video=0))
        assert (frame.width, frame.height) == (128, 128)


def test_the_same_seed_writes_the_same_pictures_and_another_seed_others(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=2, size=(64, 64), picture=moving)
    pictures = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / name
        assert call(capfd, "run", clip, "-o", out / "%05d.png", *NANO, "--seed", seed).code == 0
        pictures.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_encoder_options_reach_the_encoder(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=3, size=(64, 64), picture=moving)
    options = (
        "--codec",
        "libx265",
        "--crf",
        "30",
        "--pix-fmt",
        "yuv444p",
        "--encoder-option",
        "preset=ultrafast",
    )
    outcome = call(capfd, "run", clip, *NANO, *options)
    assert outcome.code == 0, outcome.err
    with av.open(str(tmp_path / "clip_2x.mp4")) as made:
        context = made.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("hevc", "yuv444p")


def test_the_report_goes_to_stdout_and_nothing_else_does(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=2, size=(64, 64))
    outcome = call(capfd, "run", clip, *NANO, "--json", "-")
    assert json.loads(outcome.out)["frames"] == 2
    assert "2 of 2 frames" in outcome.err

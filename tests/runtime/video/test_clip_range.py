"""Where a part of a video begins and ends: by frames, by times, with everything beside it."""

from fractions import Fraction

import av
import click
import pytest

from flashvsr_trt.cli.options import PositionType
from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.runtime.request import InputOptions
from flashvsr_trt.runtime.video.frame_clock import ClipRange
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.tags import moved_timecode
from tests.clips import NTSC, make_clip, make_images, probe
from tests.runtime.nearest_session import upscale

SECOND = Fraction(1)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90 * SECOND),
        ("12.5", Fraction(25, 2)),
        ("12.5s", Fraction(25, 2)),
        (".5", SECOND / 2),
        ("500ms", SECOND / 2),
        ("1500us", Fraction(3, 2000)),
        ("1:30", 90 * SECOND),
        ("01:02:03.250", 3723 + SECOND / 4),
        ("100:00:00", 360000 * SECOND),
    ],
)
def test_integers_are_frames_and_all_else_is_a_time(text, position):
    value = PositionType().convert(text, None, None)
    assert (value, type(value)) == (position, type(position))


@pytest.mark.parametrize("text", ["", "x", "1:2:3:4", "1:60", "1:61:00", "5m", "1e3", "1:-2", "-0.5", "٣"])
def test_what_is_neither_is_refused_with_examples(text):
    with pytest.raises(click.BadParameter, match="neither a frame nor a time; write 48"):
        PositionType().convert(text, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "negative"),
        ((0, None, 0), "0 frames cannot be made"),
        ((0, 5, 5), "leave one out"),
        ((5, 5), "the end 5 frames is not after the start 5 frames"),
        ((2 * SECOND, SECOND), "the end 1 s is not after"),
    ],
)
def test_ranges_that_hold_nothing_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        ClipRange(*arguments)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"start": SECOND / 2}, range(12, 48)),
        ({"start": Fraction(51, 100)}, range(13, 48)),
        ({"end": SECOND}, range(24)),
        ({"end": 7}, range(7)),
        ({"start": 12, "end": SECOND}, range(12, 24)),
        ({"start": SECOND, "end": 30}, range(24, 30)),
        ({"start": SECOND / 2, "duration": SECOND / 4}, range(12, 18)),
        ({"start": 6, "duration": SECOND / 4}, range(6, 12)),
        ({"start": SECOND, "frames": 3}, range(24, 27)),
        ({"duration": Fraction(1, 100)}, range(1)),
        ({"start": SECOND, "end": 100 * SECOND}, range(24, 48)),
    ],
)
@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_times_and_frames_say_the_same_of_a_steady_clip(tmp_path, extension, options, kept):
    clip = make_clip(tmp_path / f"in.{extension}", frames=48)
    before = probe(clip)
    with open_input(str(clip), InputOptions(**options)) as video:
        found = list(video)
    assert [int(frame.pixels[0, 0, 0]) for frame in found] == pytest.approx(
        [before.levels[index] for index in kept], abs=4
    )
    assert found[0].pts == 0 or not options.get("start")


def test_images_take_times_by_their_rate(tmp_path):
    folder = str(make_images(tmp_path / "in", frames=12))
    with open_input(folder, InputOptions(rate=4, start=SECOND, end=2 * SECOND)) as images:
        assert len(list(images)) == 4


def test_a_start_behind_the_end_of_the_file_is_said(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", frames=10)
    with pytest.raises(VideoError, match="it has only 10 frames"):
        open_input(str(clip), InputOptions(start=3 * SECOND))
    with pytest.raises(UsageError, match="no frame lies between"):
        open_input(str(clip), InputOptions(start=SECOND / 3, end=3))


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_sound_and_subtitles_are_cut_at_the_same_times(tmp_path, extension):
    subtitles = {"mp4": "mov_text", "mkv": "subrip"}[extension]
    clip = make_clip(tmp_path / f"in.{extension}", frames=72, audio_tracks=1, subtitles=subtitles)
    part = {"start": SECOND / 4, "end": SECOND + SECOND / 2}
    upscale(clip, tmp_path / f"out.{extension}", input_options=part)
    before, after = probe(clip), probe(tmp_path / f"out.{extension}")
    assert len(after.times) == 30
    kept = [p for p in before.audio[0] if part["start"] <= p.time < part["end"]]
    assert [packet.data for packet in after.audio[0]] == [packet.data for packet in kept]
    (line,) = [packet for packet in after.subtitles[0] if b"A line" in packet.data]
    assert line.time == 0  # begun before the cut, still shown


@pytest.mark.parametrize(
    ("label", "frames", "rate", "moved"),
    [
        ("01:00:00:00", 24, 24, "01:00:01:00"),
        ("01:00:00:00", 24, Fraction(24000, 1001), "01:00:01:00"),
        ("00:00:59;29", 1, NTSC, "00:01:00;02"),
        ("00:09:59;29", 1, NTSC, "00:10:00;00"),
        ("00:00:00;00", 17982, NTSC, "00:10:00;00"),
        ("00:00:00;00", 1800, NTSC, "00:01:00;02"),
        ("00:00:00;00", 3598, NTSC, "00:02:00;02"),
        ("00:00:59;59", 1, 2 * NTSC, "00:01:00;04"),
        ("00:00:59:29", 1, NTSC, "00:01:00:00"),
        ("23:59:59;29", 1, NTSC, "00:00:00;00"),
        ("10:11:12;13", 0, NTSC, "10:11:12;13"),
        ("no timecode", 5, 24, "no timecode"),
    ],
)
def test_timecode_moves_by_frames(label, frames, rate, moved):
    assert moved_timecode(label, frames, Fraction(rate)) == moved


def test_drop_frame_labels_are_all_there_and_in_order():
    labels = [moved_timecode("00:00:00;00", number, NTSC) for number in range(0, 40000)]
    assert len(set(labels)) == len(labels)
    assert labels == sorted(labels)
    dropped = [f"{m // 60:02}:{m % 60:02}:00;{f:02}" for m in range(20) if m % 10 for f in (0, 1)]
    assert not set(dropped) & set(labels)


@pytest.mark.parametrize("extension", ["mov", "mp4"])
def test_the_timecode_track_moves_with_the_start(tmp_path, extension):
    clip = make_clip(tmp_path / f"in.{extension}", rate=NTSC, frames=40, metadata={"timecode": "00:00:59;20"})
    _, notices = upscale(clip, tmp_path / f"out.{extension}", input_options={"start": 12})
    with av.open(str(tmp_path / f"out.{extension}")) as made:
        assert made.streams.video[0].metadata["timecode"] == "00:01:00;04"
        assert [stream.type for stream in made.streams] == ["video", "data"]
    assert notices == []

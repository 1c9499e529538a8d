"""Every container with every kind of damage, and files that look odd but are whole."""

from fractions import Fraction

import av
import pytest

from flashvsr_trt.errors import TruncatedInputError, VideoError
from flashvsr_trt.runtime.video.input import open_input
from tests.clips import make_clip
from tests.runtime.video.damaged_clips import (
    B_FRAMES,
    DAMAGES,
    FRAMES,
    KINDS,
    decodable,
    make_kind,
    moving_picture,
    remux,
)

KEPT_WHOLE = {"mpg"}
"""Kinds whose packs are mostly padding in so small a clip: some damages hit nothing."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {name: make_kind(folder, name) for name in KINDS}


def read(path):
    """The frames of an input, and what was wrong with it, if anything."""
    frames = 0
    try:
        with open_input(str(path), notify=lambda line: None) as video:
            for _ in video:
                frames += 1
    except TruncatedInputError as error:
        return frames, str(error)
    return frames, None


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_clip_is_never_called_damaged(clips, name):
    assert read(clips[name]) == (FRAMES, None)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", KINDS)
def test_frames_that_are_lost_are_told(tmp_path, clips, name, damage):
    clip = tmp_path / f"in.{KINDS[name].extension}"
    clip.write_bytes(DAMAGES[damage](clips[name].read_bytes()))
    frames, reason = read(clip)
    assert frames >= decodable(clip)
    if reason is None:
        assert frames == FRAMES
        assert name in KEPT_WHOLE or damage == "bytes inserted" or name.startswith("avi")
    else:
        assert f"the {frames} frames that could be decoded were used" in reason
        assert not (damage == "cut in half" and frames > FRAMES * 0.8 and name != "mpg")


@pytest.mark.parametrize("name", ["mp4", "mkv_vfr", "avi_mpeg4"])
def test_the_message_says_how_many_frames_were_lost_and_where(tmp_path, clips, name):
    clip = tmp_path / f"in.{KINDS[name].extension}"
    clip.write_bytes(DAMAGES["zeroed middle"](clips[name].read_bytes()))
    frames, reason = read(clip)
    lost = FRAMES - frames
    if name != "mkv_vfr":  # in a video of variable rate nobody knows how many were in a hole
        assert f"{lost} frame" in reason
    assert " s" in reason


def test_the_last_frame_of_a_y4m_may_not_be_partial(tmp_path, clips):
    data = clips["y4m"].read_bytes()
    for bytes_off in (1, 1000, len(data) // 2):
        clip = tmp_path / "in.y4m"
        clip.write_bytes(data[:-bytes_off])
        frames, reason = read(clip)
        assert frames < FRAMES
        assert "no whole frame" in reason


@pytest.mark.parametrize("begin", [0.3, 0.6, 1.1])
@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv", "flv"])
def test_an_edit_list_or_a_copy_from_the_middle_is_whole(tmp_path, extension, begin):
    clip = make_clip(
        tmp_path / "clip.mp4",
        rate=25,
        frames=FRAMES,
        options=B_FRAMES,
        picture=moving_picture,
        audio_tracks=1,
    )
    part = remux(clip, tmp_path / f"part.{extension}", begin=begin)
    frames, reason = read(part)
    assert (frames, reason) == (decodable(part), None)


def test_frames_that_an_edit_list_leaves_out_are_not_missed(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", rate=25, frames=FRAMES, options=B_FRAMES, picture=moving_picture)
    data = bytearray(clip.read_bytes())
    entry = data.index(b"elst") + 12  # behind the version and the number of entries
    start = int.from_bytes(data[entry + 4 : entry + 8], "big")
    timescale = av.open(str(clip)).streams.video[0].time_base.denominator
    data[entry + 4 : entry + 8] = (start + timescale // 5).to_bytes(4, "big")
    length = int.from_bytes(data[entry : entry + 4], "big") - 200
    data[entry : entry + 4] = length.to_bytes(4, "big")
    clip.write_bytes(data)
    frames, reason = read(clip)
    assert (frames, reason) == (FRAMES - 5, None)


@pytest.mark.parametrize("extension", ["mkv", "mp4", "ts", "flv"])
def test_a_pause_is_no_loss(tmp_path, extension):
    pts = [*range(0, 800, 40), *range(3000, 3640, 40)]
    clip = make_clip(
        tmp_path / f"in.{extension}",
        rate=25,
        time_base=Fraction(1, 1000),
        pts=pts,
        frames=FRAMES,
        options=B_FRAMES,
    )
    assert read(clip) == (FRAMES, None)


@pytest.mark.parametrize("times", [2, 3])
def test_the_same_recording_joined_to_itself_is_whole(tmp_path, clips, times):
    for name in ("ts", "ts_video", "ts_mpeg2", "mpg"):
        clip = tmp_path / f"{name}.{KINDS[name].extension}"
        clip.write_bytes(clips[name].read_bytes() * times)
        assert read(clip) == (FRAMES * times, None), name


def test_zeros_behind_an_mp4_are_padding_and_other_bytes_are_not(tmp_path, clips):
    clip = tmp_path / "in.mp4"
    clip.write_bytes(clips["mp4"].read_bytes() + bytes(500))
    assert read(clip) == (FRAMES, None)
    clip.write_bytes(clips["mp4"].read_bytes() + b"\x07" * 500)
    frames, reason = read(clip)
    assert frames == FRAMES
    assert "box" in reason


def test_a_first_key_frame_that_fails_is_a_loss(tmp_path, clips):
    data = bytearray(clips["mp4_vfr"].read_bytes())
    begin = data.index(b"mdat") + 8
    data[begin : begin + 1500] = bytes(1500)
    clip = tmp_path / "in.mp4"
    clip.write_bytes(data)
    frames, reason = read(clip)
    assert frames < FRAMES
    assert f"{FRAMES - frames} frame" in reason


def test_a_stream_that_a_damaged_file_makes_up_ends_no_run(tmp_path, clips):
    data = clips["flv"].read_bytes()
    middle = data.index(b"\x09", len(data) // 2)
    found = set()
    for kind in (8, 18, *range(0, 256, 16)):  # the type of one tag: sound, pictures, data, nonsense
        clip = tmp_path / "in.flv"
        clip.write_bytes(data[:middle] + bytes([kind]) + data[middle + 1 :])
        try:
            frames, reason = read(clip)
        except VideoError:
            continue
        found.add(reason is not None or frames == FRAMES)
    assert found == {True}

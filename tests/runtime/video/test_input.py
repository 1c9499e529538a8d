import subprocess
import sys
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_trt.errors import TruncatedInputError, UsageError, VideoError
from flashvsr_trt.runtime.request import InputOptions
from flashvsr_trt.runtime.video.input import open_input
from tests.clips import NTSC, gray_frame, gray_level, irregular_pts, make_clip, make_images


def read(path, **options):
    """Info, frames and notices of an input."""
    notices = []
    with open_input(str(path), InputOptions(**options), notify=notices.append) as video:
        return video.info, list(video), notices


def levels(frames):
    return [int(frame.pixels.mean().round()) for frame in frames]


def expected_levels(indices):
    return pytest.approx([gray_level(index) for index in indices], abs=2)


@pytest.mark.parametrize("frames", [1, 5, 8, 22, 100])
@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov", "ts"])
def test_every_frame_comes_out_in_order(tmp_path, extension, frames):
    info, decoded, _ = read(make_clip(tmp_path / f"clip.{extension}", frames=frames))
    assert levels(decoded) == expected_levels(range(frames))
    assert (info.height, info.width) == (48, 64)
    assert all(frame.pixels.shape == (48, 64, 3) and frame.pixels.dtype == np.uint8 for frame in decoded)


@pytest.mark.parametrize("size", [(64, 64), (181, 322), (37, 53)])
def test_sizes_are_those_of_the_frames(tmp_path, size):
    clip = make_clip(tmp_path / "clip.mkv", size=size, frames=2, pixel_format="yuv444p")
    info, decoded, _ = read(clip)
    assert (info.height, info.width) == size
    assert decoded[0].pixels.shape == (*size, 3)


def test_b_frames_come_out_in_display_order(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=22, options={"preset": "medium", "bf": "3", "crf": "8"})
    _, decoded, _ = read(clip)
    assert levels(decoded) == expected_levels(range(22))
    assert [frame.pts for frame in decoded] == sorted(frame.pts for frame in decoded)


def test_ntsc_time_is_exact(tmp_path):
    info, decoded, _ = read(make_clip(tmp_path / "clip.mp4", rate=NTSC, frames=22))
    assert info.rate == NTSC
    assert [frame.pts * info.time_base for frame in decoded] == [index / NTSC for index in range(22)]
    assert {frame.duration * info.time_base for frame in decoded} == {1 / NTSC}


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_every_timestamp(tmp_path, extension):
    pts = irregular_pts(21)
    clip = make_clip(tmp_path / f"clip.{extension}", frames=21, time_base=Fraction(1, 1000), pts=pts)
    info, decoded, _ = read(clip)
    assert [frame.pts * info.time_base for frame in decoded] == [Fraction(p, 1000) for p in pts]


@pytest.mark.parametrize(
    ("start", "frames", "kept"), [(5, None, range(5, 22)), (0, 7, range(7)), (5, 7, range(5, 12))]
)
def test_start_and_frames_cut_by_frame_number(tmp_path, start, frames, kept):
    info, decoded, _ = read(
        make_clip(tmp_path / "clip.mp4", frames=22, rate=NTSC), start=start, frames=frames
    )
    assert levels(decoded) == expected_levels(kept)
    assert info.frames == len(kept)
    assert decoded[0].pts == 0
    assert info.shift == start / NTSC


@pytest.mark.parametrize("extension", ["avi", "h264"])
def test_frames_without_timestamps_follow_one_another(tmp_path, extension):
    clip = make_clip(
        tmp_path / f"clip.{extension}",
        frames=22,
        rate=25,
        options={"preset": "medium", "bf": "3", "crf": "8"},
    )
    info, decoded, notices = read(clip)
    assert levels(decoded) == expected_levels(range(22))
    assert [frame.pts * info.time_base for frame in decoded] == [Fraction(index, 25) for index in range(22)]
    assert notices == []


def test_a_limit_beyond_the_end_gives_what_there_is(tmp_path):
    info, decoded, _ = read(make_clip(tmp_path / "clip.mp4", frames=5), frames=99)
    assert len(decoded) == info.frames == 5


def test_nothing_is_shifted_without_a_start(tmp_path):
    clip = make_clip(tmp_path / "clip.mkv", time_base=Fraction(1, 1000), pts=[500, 540, 580], frames=3)
    info, decoded, _ = read(clip)
    assert [frame.pts for frame in decoded] == [500, 540, 580]
    assert info.shift == 0


def test_a_broadcast_clock_starts_at_zero_and_says_so(tmp_path):
    clip = make_clip(tmp_path / "clip.ts", time_base=Fraction(1, 90000), pts=range(90000, 180000, 3750))
    info, decoded, notices = read(clip)
    assert decoded[0].pts == 0
    assert info.shift == 1
    assert any("starts at 0" in notice for notice in notices)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov"])
def test_announced_frames_are_those_that_come(tmp_path, extension):
    info, decoded, _ = read(make_clip(tmp_path / f"clip.{extension}", frames=22, audio_tracks=1))
    assert info.frames == len(decoded) == 22


@pytest.mark.parametrize("name", ["images", "images/%05d.png", "images/*.png"])
def test_images_are_a_video(tmp_path, name):
    make_images(tmp_path / "images", frames=5)
    info, decoded, notices = read(tmp_path / name)
    assert [frame.pixels[0, 0, 0] for frame in decoded] == [gray_level(index) for index in range(5)]
    assert [frame.pts for frame in decoded] == [0, 1, 2, 3, 4]
    assert (info.rate, info.time_base, info.frames) == (24, Fraction(1, 24), 5)
    assert notices == [f"{tmp_path / name}: no frame rate given, 24 frames a second assumed"]


def test_images_take_a_rate_and_a_range(tmp_path):
    folder = make_images(tmp_path / "images", frames=12)
    info, decoded, notices = read(folder, rate=NTSC, start=2, frames=4)
    assert [frame.pixels[0, 0, 0] for frame in decoded] == [gray_level(index) for index in range(2, 6)]
    assert info.time_base == 1 / NTSC
    assert notices == []


def test_images_without_leading_zeros_are_in_counting_order(tmp_path):
    folder = make_images(tmp_path / "images", frames=11)
    for index, image in enumerate(sorted(folder.iterdir())):
        image.rename(folder / f"shot-{index}.png")
    _, decoded, _ = read(folder, rate=24)
    assert [frame.pixels[0, 0, 0] for frame in decoded] == [gray_level(index) for index in range(11)]


def test_a_gap_in_the_numbers_is_named(tmp_path):
    folder = make_images(tmp_path / "images", frames=5)
    (folder / "00003.png").unlink()
    with pytest.raises(VideoError, match="has no number 3"):
        open_input(str(folder / "%05d.png"))


@pytest.mark.parametrize(("number", "kind"), [(1, VideoError), (3, TruncatedInputError)])
def test_sound_under_the_name_of_an_image_is_named(tmp_path, number, kind):
    folder = make_images(tmp_path / "in")
    sound = folder / f"{number:05d}.png"
    assert sound.exists()
    with wave.open(str(sound), "wb") as written:
        written.setparams((1, 2, 8000, 0, "NONE", ""))
        written.writeframes(bytes(1000))
    with pytest.raises(VideoError, match=rf"{sound.name} cannot be read .*it holds no picture") as error:
        read(folder)
    assert error.type is kind


def test_an_image_of_another_size_is_named(tmp_path):
    folder = make_images(tmp_path / "images", frames=3)
    make_images(folder, frames=1, first=4, size=(32, 64))
    with pytest.raises(VideoError, match=r"00004\.png \(frame 3\) is 64x32 and those before are 64x48"):
        read(folder, rate=24)


def test_a_name_with_glob_characters_that_exists_is_that_file(tmp_path):
    _, decoded, _ = read(make_clip(tmp_path / "a [1] %d.mp4", frames=5))
    assert len(decoded) == 5


def test_a_raw_file_takes_its_size_and_format_from_the_caller(tmp_path):
    raw = tmp_path / "clip.raw"
    raw.write_bytes(b"".join(gray_frame(index, 48, 64).tobytes() for index in range(5)))
    info, decoded, _ = read(raw, raw_size=(48, 64), raw_format="rgb24", rate=NTSC)
    assert levels(decoded) == expected_levels(range(5))
    assert [frame.pts * info.time_base for frame in decoded] == [index / NTSC for index in range(5)]


@pytest.mark.parametrize("kind", ["y4m", "raw"])
def test_a_video_is_read_from_a_pipe(tmp_path, kind):
    if kind == "y4m":
        data = make_clip(tmp_path / "clip.y4m", codec="wrapped_avframe", rate=NTSC).read_bytes()
        options = ""
    else:
        data = b"".join(gray_frame(index, 48, 64).tobytes() for index in range(8))
        options = "raw_size=(48, 64), rate=25"
    code = (
        "from flashvsr_trt.runtime.request import InputOptions\n"
        "from flashvsr_trt.runtime.video.input import open_input\n"
        f"with open_input('-', InputOptions({options})) as video:\n"
        "    print(video.info.rate, *(round(frame.pixels.mean()) for frame in video))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    rate, *found = done.stdout.split()
    assert Fraction(rate.decode()) == (NTSC if kind == "y4m" else 25)
    assert [int(level) for level in found] == expected_levels(range(8))


def test_a_cover_picture_is_not_the_video(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=5)
    covered = tmp_path / "covered.mp4"
    with av.open(str(clip)) as source, av.open(str(covered), "w") as target:
        cover = target.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        video = target.add_stream_from_template(source.streams.video[0])
        picture = av.VideoFrame.from_ndarray(gray_frame(0, 32, 32), format="rgb24")
        target.mux([*cover.encode(picture), *cover.encode(None)])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                target.mux(packet)
    info, decoded, _ = read(covered)
    assert (info.height, info.width, len(decoded)) == (48, 64, 5)


def test_no_such_file(tmp_path):
    with pytest.raises(VideoError, match=r"no such file: .*missing\.mp4"):
        open_input(str(tmp_path / "missing.mp4"))


@pytest.mark.parametrize("content", [b"", b"not a video, just a line of text\n", bytes(range(256)) * 8])
def test_not_a_video(tmp_path, content):
    (tmp_path / "notes.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"notes\.mp4 .*check"):
        open_input(str(tmp_path / "notes.mp4"))


def test_no_video_stream(tmp_path):
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(VideoError, match=r"no video stream \(it holds: audio\)"):
        open_input(str(tmp_path / "sound.m4a"))


def test_no_frame_can_be_decoded(tmp_path):
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", frames=3)
    with av.open(str(clip)) as source, av.open(str(tmp_path / "empty.mkv"), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                packet.update(bytes(packet.size))
                target.mux(packet)
    with pytest.raises(VideoError, match=r"no frame of .*empty\.mkv can be decoded: 3 frames lost"):
        open_input(str(tmp_path / "empty.mkv"))


def test_an_empty_folder_holds_no_images(tmp_path):
    with pytest.raises(VideoError, match="holds no images"):
        open_input(str(tmp_path))


@pytest.mark.parametrize("kind", ["mp4", "images"])
def test_a_start_beyond_the_end_is_named(tmp_path, kind):
    if kind == "mp4":
        path = make_clip(tmp_path / "clip.mp4", frames=5)
    else:
        path = make_images(tmp_path / "images", frames=5)
    with pytest.raises(VideoError, match="5"):
        open_input(str(path), InputOptions(start=5))


def test_a_size_that_changes_names_both_sizes_and_the_frame(tmp_path):
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        container.start_encoding()
        for index, size in enumerate([(48, 64)] * 3 + [(32, 96)]):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt = *size, "yuvj420p"
            encoder.time_base = Fraction(1, 24)
            frame = av.VideoFrame.from_ndarray(gray_frame(index, *size), format="rgb24")
            for packet in encoder.encode(frame.reformat(format="yuvj420p")):
                packet.stream, packet.pts, packet.dts = stream, index * 42, index * 42
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    with pytest.raises(VideoError, match="frame 3 is 96x32 and those before are 64x48"):
        read(tmp_path / "clip.mkv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1}, "start -1"),
        ({"frames": 0}, "0 frames"),
        ({"rate": 0}, "a rate of 0"),
        ({"rate": 25}, "own timestamps"),
    ],
)
def test_arguments_out_of_range(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        open_input(str(make_clip(tmp_path / "clip.mp4")), InputOptions(**options))


def test_the_input_file_is_not_touched(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    before = clip.read_bytes(), clip.stat().st_mtime_ns
    read(clip)
    assert (clip.read_bytes(), clip.stat().st_mtime_ns) == before

"""Times on their way through a run: joins, wraps, late starts, slots of AVI, variable rates."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from flashvsr_trt.runtime.video.encoder_timing import _video_times
from flashvsr_trt.runtime.video.input import open_input
from tests.clips import gray_frame, gray_level, make_clip, make_images, probe
from tests.runtime.nearest_session import upscale
from tests.runtime.video.damaged_clips import remux

CLOCK = Fraction(1, 90000)
MILLISECOND = Fraction(1, 1000)
WRAP = 2**33
"""Where the 33 bits of MPEG clocks begin anew."""


def tone_stream(container, codec, rate):
    """A stereo stream of a codec that takes planar floats or 16-bit samples."""
    return container.add_stream(codec, rate=rate, layout="stereo")


def add_tone(container, stream, seconds, begin=Fraction(0)):
    """Encodes a tone that begins at `begin` seconds."""
    rate, step = stream.rate, stream.codec_context.frame_size or 1024
    samples = np.arange(int(seconds * rate))
    wave = (3000 * np.sin(samples / 20)).astype(np.int16)
    planar, name = stream.codec_context.format.is_planar, stream.codec_context.format.name
    for first in range(0, len(wave), step):
        part = np.stack([wave[first : first + step]] * 2)
        part = part if planar else np.ascontiguousarray(part.T).reshape(1, -1)
        part = part.astype(np.float32) / 32768 if name.startswith("flt") else part
        frame = av.AudioFrame.from_ndarray(part, format=name, layout="stereo")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = first + int(begin * rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def transport_clip(path, first, frames, begin, *, sound=True, rate=25):
    """An MPEG-TS whose clock stands at `begin` seconds: grays from number `first` on, and a tone."""
    with av.open(str(path), "w", container_options={"output_ts_offset": "0"}) as container:
        video = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"}, time_base=CLOCK)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        audio = tone_stream(container, "mp2", 48000) if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(gray_frame(first + index, 48, 64), format="rgb24")
            frame.pts, frame.time_base = round((begin + Fraction(index, rate)) / CLOCK), CLOCK
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            add_tone(container, audio, Fraction(frames, rate), begin)
    return path


def gaps(times):
    return [b - a for a, b in pairwise(times)]


def expected_levels(count):
    return pytest.approx([gray_level(index) for index in range(count)], abs=4)


@pytest.mark.parametrize("target", ["mkv", "mp4", "mov", "avi", "ts"])
@pytest.mark.parametrize(
    "begins", [(20, 3), (3, 3), (3, 400), (3, Fraction(18, 5)), (70000, 5)], ids=lambda b: f"{b[0]}-{b[1]}"
)
def test_joined_recordings_go_on_where_the_clock_stood(tmp_path, target, begins):
    parts = [transport_clip(tmp_path / f"{n}.ts", 15 * n, 15, begin) for n, begin in enumerate(begins)]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    report, _ = upscale(tmp_path / "in.ts", tmp_path / f"out.{target}")
    result = probe(tmp_path / f"out.{target}")
    assert report.truncated is None
    assert result.levels == expected_levels(30)
    sound = [packet.time for packet in result.audio[0]]
    assert len(sound) == 50
    assert min(gaps(sound)) > 0
    if target != "avi":  # PyAV makes times up for H.264 in AVI
        between = gaps(result.times)
        assert Fraction(3, 100) < min(between)
        assert max(between) < Fraction(15, 100)
        assert abs((result.times[15] - result.times[0]) - (sound[25] - sound[0])) < Fraction(8, 100)


def test_the_rate_of_joined_recordings_is_chosen_by_the_times_that_frames_get(tmp_path):
    parts = [transport_clip(tmp_path / f"{n}.ts", 15 * n, 15, begin) for n, begin in enumerate((20, 3))]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_input(str(tmp_path / "in.ts")) as video:
        times = [frame.pts * video.info.time_base for frame in video]
        assert gaps(sorted(_video_times(video.info))) == gaps(times)


@pytest.mark.parametrize("target", ["mkv", "mp4", "avi"])
@pytest.mark.parametrize("before", [5, 12])
def test_a_clock_that_wraps_inside_a_clip_goes_on(tmp_path, target, before):
    begin = WRAP * CLOCK - Fraction(before, 25)
    clip = transport_clip(tmp_path / "in.ts", 0, 24, begin)
    report, _ = upscale(clip, tmp_path / f"out.{target}")
    with open_input(str(tmp_path / f"out.{target}")) as video:
        times = [frame.pts * video.info.time_base for frame in video]
    assert report.truncated is None
    assert len(times) == 24
    assert max(abs(gap - Fraction(1, 25)) for gap in gaps(times)) <= MILLISECOND
    sound = [packet.time for packet in probe(tmp_path / f"out.{target}").audio[0]]
    assert max(gaps(sound)) < Fraction(3, 100)


@pytest.mark.parametrize("late", [1, 12])
def test_a_stream_that_appears_later_keeps_its_place(tmp_path, late):
    clip = tmp_path / "in.ts"
    with av.open(str(clip), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"}, time_base=CLOCK)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        audio = tone_stream(container, "mp2", 48000)
        for index in range(25 * (late + 1)):
            frame = av.VideoFrame.from_ndarray(gray_frame(index, 48, 64), format="rgb24")
            frame.pts, frame.time_base = index * 3600, CLOCK
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        add_tone(container, audio, 1, Fraction(late))
    upscale(clip, tmp_path / "out.mkv")
    result = probe(tmp_path / "out.mkv")
    assert result.frames == 25 * (late + 1)
    begins = result.audio[0][0].time - result.times[0]
    assert abs(begins - late) < Fraction(5, 100)


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
@pytest.mark.parametrize("target", ["mkv", "mp4", "avi"])
def test_empty_chunks_of_avi_show_the_last_frame_longer(tmp_path, codec, target):
    pts = [0, 1, 2, 3, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19, 20, 29]
    clip = make_clip(
        tmp_path / "in.avi",
        rate=25,
        pts=pts,
        frames=len(pts),
        codec=codec,
        pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p",
        audio_tracks=1,
        audio_codec="ac3",
    )
    report, _ = upscale(clip, tmp_path / f"out.{target}")
    assert report.truncated is None
    with open_input(str(tmp_path / f"out.{target}")) as video:
        times = [frame.pts * video.info.time_base for frame in video]
    assert [round(time * 25) for time in times] == pts


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 25, Fraction(30000, 1001), 60])
def test_avi_made_of_matroska_has_the_real_rate(tmp_path, rate):
    clip = make_clip(tmp_path / "in.mkv", rate=rate, frames=30, audio_tracks=1, audio_codec="libmp3lame")
    upscale(clip, tmp_path / "out.avi")
    with av.open(str(tmp_path / "out.avi")) as container:
        stream = container.streams.video[0]
        assert abs(float(stream.average_rate) - float(rate)) < 0.2
        assert stream.frames == 30
    assert upscale(tmp_path / "out.avi", tmp_path / "again.mkv")[0].truncated is None
    assert probe(tmp_path / "again.mkv").levels == expected_levels(30)


def test_a_variable_rate_is_put_into_slots_of_avi(tmp_path):
    pts = [index * 50 + index % 4 * 9 for index in range(30)]
    clip = make_clip(tmp_path / "in.mkv", time_base=MILLISECOND, pts=pts, frames=30)
    upscale(clip, tmp_path / "out.avi")
    with open_input(str(tmp_path / "out.avi")) as video:
        assert video.info.rate <= 120
        times = [frame.pts * video.info.time_base for frame in video]
    assert len(times) == 30
    assert max(abs(a - b * MILLISECOND) for a, b in zip(times, pts, strict=True)) <= Fraction(1, 20)


def test_avi_has_no_b_frames_and_sound_stays_with_the_picture(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", rate=25, frames=40, audio_tracks=1, audio_codec="libmp3lame")
    upscale(clip, tmp_path / "out.avi", encoder_options={"preset": "medium"})
    with av.open(str(tmp_path / "out.avi")) as container:
        container.flags &= ~av.container.core.Flags.gen_pts.value
        found = {"video": [], "audio": []}
        for packet in container.demux():
            if packet.size:
                found[packet.stream.type].append(packet.dts)
    assert found["video"] == list(range(40))
    assert found["audio"][0] == 0


def test_two_sound_tracks_whose_packets_fall_on_one_tick(tmp_path):
    clip = tmp_path / "in.mkv"
    with av.open(str(clip), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        tracks = [tone_stream(container, codec, 44100) for codec in ("mp2", "ac3")]
        for index in range(15):
            frame = av.VideoFrame.from_ndarray(gray_frame(index, 48, 64), format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for track in tracks:
            add_tone(container, track, Fraction(6, 10))
    before = probe(clip)
    for target in ("avi", "mp4", "mkv"):
        upscale(clip, tmp_path / f"out.{target}")
        after = probe(tmp_path / f"out.{target}")
        assert [len(track) for track in after.audio] == [len(track) for track in before.audio]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"frames": 8}, ((0, 1, "one"), (1, Fraction(5, 2), "two"))),
        ({"frames": 6}, ((0, 1, "one"), (1, Fraction(3, 2), "two"))),
        ({"start": 5, "frames": 4}, ((0, 2, "two"),)),
    ],
)
@pytest.mark.parametrize("extension", ["mkv", "mp4"])
def test_chapters_end_where_the_kept_part_ends(tmp_path, extension, options, expected):
    pts = [0, 40, 80, 120, 160, *(1000 + 500 * index for index in range(8))]
    chapters = [(0, 1000, "one"), (1000, 3000, "two"), (3000, 5000, "three")]
    clip = make_clip(
        tmp_path / f"in.{extension}", time_base=MILLISECOND, pts=pts, frames=13, rate=25, chapters=chapters
    )
    upscale(clip, tmp_path / f"out.{extension}", input_options=options)
    found = probe(tmp_path / f"out.{extension}").chapters
    assert [title for *_, title in found] == [title for *_, title in expected]
    for (begin, end, _), (wanted_begin, wanted_end, _) in zip(found, expected, strict=True):
        assert abs(begin - wanted_begin) <= Fraction(2, 100)
        assert abs(end - wanted_end) <= Fraction(2, 100)


@pytest.mark.parametrize("extension", ["mkv", "mp4", "mov", "ts", "flv"])
@pytest.mark.parametrize("offset", [3, 700])
def test_a_file_that_starts_late_is_whole(tmp_path, extension, offset):
    clip = make_clip(tmp_path / f"clip.{extension}", rate=25, frames=30, audio_tracks=1)
    late = remux(clip, tmp_path / f"late.{extension}", offset=offset)
    report, _ = upscale(late, tmp_path / "out.mkv")
    assert (report.truncated, report.frames) == (None, 30)
    result = probe(tmp_path / "out.mkv")
    assert {round(gap * 25) for gap in gaps(result.times)} == {1}
    assert abs(result.times[0] - (offset if extension not in ("ts",) else 0)) < Fraction(1, 5)


@pytest.mark.parametrize("frames", range(1, 27))
def test_as_many_frames_come_out_as_went_in(tmp_path, frames):
    clip = make_clip(tmp_path / "in.mp4", frames=frames)
    upscale(clip, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").levels == expected_levels(frames)


def test_hidden_files_beside_pictures_are_no_pictures(tmp_path):
    folder = make_images(tmp_path / "in", frames=4)
    for image in list(folder.iterdir()):
        (folder / f"._{image.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60))
    report, _ = upscale(folder, tmp_path / "out.mp4", input_options={"rate": 24})
    assert (report.truncated, report.frames) == (None, 4)

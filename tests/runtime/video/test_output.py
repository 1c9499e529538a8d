from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError

from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.runtime.request import InputOptions, OutputOptions
from flashvsr_trt.runtime.video.color import ColorTags
from flashvsr_trt.runtime.video.encoder import choose_encoder
from flashvsr_trt.runtime.video.encoders_here import HARDWARE
from flashvsr_trt.runtime.video.info import VideoInfo
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.output import open_output
from tests.clips import NTSC, gray_level, irregular_pts, make_clip, make_images, probe
from tests.runtime.nearest_session import upscale

MILLISECOND = Fraction(1, 1000)


def within(found, expected, tolerance):
    """Whether two lists of times agree, exactly computed."""
    return len(found) == len(expected) and all(
        abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True)
    )


def expected_levels(frames):
    return pytest.approx([gray_level(index) for index in frames], abs=3)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("frames", [1, 5, 22])
@pytest.mark.parametrize(
    "options", [{"preset": "ultrafast"}, {"preset": "medium", "bf": "3"}], ids=["ip", "b"]
)
def test_ntsc_stays_exact(tmp_path, extension, frames, options):
    clip = make_clip(tmp_path / "in.mp4", rate=NTSC, frames=frames)
    upscale(clip, tmp_path / f"out.{extension}", encoder_options=options)
    result = probe(tmp_path / f"out.{extension}")
    assert result.rate == NTSC
    assert result.levels == expected_levels(range(frames))
    if extension == "mkv":  # Matroska stores milliseconds
        assert within(result.times, [index / NTSC for index in range(frames)], MILLISECOND / 2)
    else:
        assert result.times == [index / NTSC for index in range(frames)]
        assert {duration * result.time_base for duration in result.durations} == {1 / NTSC}


@pytest.mark.parametrize("source", ["mp4", "mkv"])
@pytest.mark.parametrize("target", ["mp4", "mkv", "mov"])
def test_variable_frame_rate_is_passed_through(tmp_path, source, target):
    pts = irregular_pts(30)
    clip = make_clip(tmp_path / f"in.{source}", frames=30, time_base=MILLISECOND, pts=pts, audio_tracks=1)
    upscale(clip, tmp_path / f"out.{target}", encoder_options={"preset": "medium", "bf": "2"})
    result = probe(tmp_path / f"out.{target}")
    assert result.times == [stamp * MILLISECOND for stamp in pts]
    assert result.levels == expected_levels(range(30))


def test_the_last_frame_is_shown_as_long_as_in_the_input(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", frames=9, rate=NTSC)
    upscale(clip, tmp_path / "out.mp4", encoder_options={"preset": "medium", "bf": "3"})
    assert probe(tmp_path / "out.mp4").durations == probe(clip).durations


def test_a_late_start_stays_late(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", time_base=MILLISECOND, pts=[500, 540, 580], frames=3)
    upscale(clip, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").times == [stamp * MILLISECOND for stamp in (500, 540, 580)]


@pytest.mark.parametrize(
    ("source", "target"), [("mp4", "mp4"), ("mp4", "mov"), ("mkv", "mkv"), ("mp4", "mkv"), ("mkv", "mp4")]
)
@pytest.mark.parametrize("tracks", [1, 2])
def test_audio_is_copied_byte_for_byte_at_the_same_times(tmp_path, source, target, tracks):
    clip = make_clip(tmp_path / f"in.{source}", frames=48, audio_tracks=tracks)
    upscale(clip, tmp_path / f"out.{target}", encoder_options={"preset": "medium", "bf": "2"})
    before, after = probe(clip), probe(tmp_path / f"out.{target}")
    assert len(after.audio) == tracks
    assert within(after.times, before.times, MILLISECOND / 2)
    for old, new in zip(before.audio, after.audio, strict=True):
        assert [packet.data for packet in new] == [packet.data for packet in old]
        assert within([packet.time for packet in new], [packet.time for packet in old], MILLISECOND)


@pytest.mark.parametrize(("start", "frames"), [(12, None), (0, 24), (12, 24), (30, 1)])
@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_audio_is_cut_and_moved_with_the_video(tmp_path, extension, start, frames):
    clip = make_clip(tmp_path / f"in.{extension}", frames=72, audio_tracks=2)
    upscale(clip, tmp_path / f"out.{extension}", input_options={"start": start, "frames": frames})
    before, after = probe(clip), probe(tmp_path / f"out.{extension}")
    begin = before.times[start]
    end = None if frames is None else Fraction(start + frames, 24)
    assert after.times[0] == 0
    assert len(after.times) == (72 - start if frames is None else frames)
    for old, new in zip(before.audio, after.audio, strict=True):
        kept = [p for p in old if (not start or p.time >= begin) and (end is None or p.time < end)]
        assert [packet.data for packet in new] == [packet.data for packet in kept]
        assert within([packet.time for packet in new], [p.time - begin for p in kept], MILLISECOND)


@pytest.mark.parametrize(("extension", "codec"), [("mp4", "mov_text"), ("mkv", "subrip")])
def test_subtitles_are_copied(tmp_path, extension, codec):
    clip = make_clip(tmp_path / f"in.{extension}", frames=24, audio_tracks=1, subtitles=codec)
    _, notices = upscale(clip, tmp_path / f"out.{extension}")
    before, after = probe(clip), probe(tmp_path / f"out.{extension}")
    assert before.subtitles[0]
    assert after.subtitles == before.subtitles
    assert notices == []


def test_a_stream_the_container_cannot_hold_is_announced_and_left_out(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", frames=8, audio_tracks=1, subtitles="subrip")
    _, notices = upscale(clip, tmp_path / "out.mp4")
    result = probe(tmp_path / "out.mp4")
    assert notices == [
        "stream 2 (subtitle, srt) is not copied: mp4 cannot hold it; "
        "--subtitle-codec auto converts it to mov_text"
    ]
    assert (len(result.audio), len(result.subtitles)) == (1, 0)


def test_webm_gets_vp9_and_announces_what_it_cannot_hold(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", frames=5, audio_tracks=1)
    options = {"deadline": "realtime", "cpu-used": "8"}
    _, notices = upscale(clip, tmp_path / "out.webm", encoder_options=options)
    result = probe(tmp_path / "out.webm")
    assert (result.codec, result.frames, result.audio) == ("vp9", 5, ())
    assert notices == [
        "stream 1 (audio, aac) is not copied: webm cannot hold it; --audio-codec auto converts it to libopus"
    ]


@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv"])
def test_chapters_and_metadata_are_copied(tmp_path, extension):
    chapters = [(0, 400, "one"), (400, 1000, "two")]
    metadata = {"title": "A title", "artist": "Someone", "camera.model": "a camera"}
    clip = make_clip(tmp_path / f"in.{extension}", frames=24, chapters=chapters, metadata=metadata)
    _, notices = upscale(clip, tmp_path / f"out.{extension}")
    result = probe(tmp_path / f"out.{extension}")
    assert [title for _, _, title in result.chapters] == [title for _, _, title in chapters]
    for (start, end, _), (first, last, _) in zip(result.chapters, chapters, strict=True):
        # FFmpeg 8.1 ends an mp4's chapter at a tick of the video's clock.
        assert abs(start - first * MILLISECOND) < MILLISECOND / 10
        assert abs(end - last * MILLISECOND) < MILLISECOND / 10
    found = {key.lower(): value for key, value in result.metadata.items()}
    assert {key: found.get(key) for key in metadata} == metadata
    assert notices == []


def test_chapters_move_with_the_start(tmp_path):
    clip = make_clip(
        tmp_path / "in.mp4", frames=48, chapters=[(0, 400, "a"), (400, 1000, "b"), (1000, 2000, "c")]
    )
    upscale(clip, tmp_path / "out.mp4", input_options={"start": 12, "frames": 24})
    assert probe(tmp_path / "out.mp4").chapters == (
        (0, Fraction(1, 2), "b"),
        (Fraction(1, 2), 1, "c"),
    )


@pytest.mark.parametrize("rotation", [90, -180, -90])
@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv"])
def test_rotation_is_kept(tmp_path, extension, rotation):
    clip = make_clip(tmp_path / "in.mp4", frames=2, rotation=rotation)
    assert probe(clip).rotation == rotation
    upscale(clip, tmp_path / f"out.{extension}")
    result = probe(tmp_path / f"out.{extension}")
    assert (result.rotation, result.size) == (rotation, (96, 128))


@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv"])
def test_the_sample_aspect_ratio_is_kept(tmp_path, extension):
    clip = make_clip(tmp_path / "in.mp4", frames=2, sample_aspect_ratio=Fraction(4, 3))
    upscale(clip, tmp_path / f"out.{extension}")
    assert probe(tmp_path / f"out.{extension}").sample_aspect_ratio == Fraction(4, 3)


def test_the_size_is_exactly_twice_the_input(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", size=(181, 322), frames=2, pixel_format="yuv444p")
    _, notices = upscale(clip, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").size == (362, 644)
    assert notices == []


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (47, 63)])
def test_odd_sides_are_kept_in_yuv444p_and_announced(tmp_path, size):
    notices = []
    clip, target = make_clip(tmp_path / "in.mp4", frames=1), str(tmp_path / "out.mp4")
    with open_input(str(clip)) as video, open_output(target, video, size, notify=notices.append) as output:
        output.write(np.zeros((*size, 3), np.uint8), 0, 1)
        output.finish()
    result = probe(tmp_path / "out.mp4")
    assert (result.size, result.pixel_format) == (size, "yuv444p")
    assert notices == [
        f"pixel format yuv444p instead of yuv420p: the output is {size[1]}x{size[0]}, with an odd side"
    ]


@pytest.mark.parametrize(
    ("codec", "extension", "pixel_format"),
    [
        ("libx264", "mp4", "yuv422p"),
        ("libx265", "mp4", "yuv420p10le"),
        ("ffv1", "mkv", "yuv420p"),
        ("prores_ks", "mov", "yuv422p10le"),
        ("libx264rgb", "mkv", "rgb24"),
        ("libsvtav1", "mp4", "yuv420p"),
    ],
)
def test_codec_and_pixel_format_are_the_callers(tmp_path, codec, extension, pixel_format):
    clip = make_clip(tmp_path / "in.mp4", frames=5, size=(64, 64))
    upscale(clip, tmp_path / f"out.{extension}", codec=codec, pixel_format=pixel_format, encoder_options={})
    result = probe(tmp_path / f"out.{extension}")
    assert result.pixel_format == {"rgb24": "gbrp"}.get(pixel_format, pixel_format)
    assert result.levels == pytest.approx(probe(clip).levels, abs=4)


def test_crf_decides_the_size(tmp_path):
    def noise(index, height, width):
        return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)

    clip = make_clip(tmp_path / "in.mp4", frames=5, picture=noise)
    sizes = {}
    for crf in (5, None, 40):
        upscale(clip, tmp_path / "out.mp4", crf=crf, overwrite=True)
        sizes[crf] = (tmp_path / "out.mp4").stat().st_size
    assert sizes[5] > sizes[None] > sizes[40]


@pytest.mark.parametrize("target", ["out", "out/", "out/%05d.png", "out/frame-%d.png"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_png_sequence(tmp_path, target, exists):
    if exists:
        (tmp_path / "out").mkdir()
    clip = make_clip(tmp_path / "in.mp4", frames=30, audio_tracks=1)
    _, notices = upscale(clip, f"{tmp_path}/{target}")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    pattern = "frame-%d.png" if "frame" in target else "%05d.png"
    assert names == sorted(pattern % number for number in range(1, 31))
    assert notices == [f"{tmp_path}/{target} is a PNG sequence: streams next to the video (1) are not kept"]
    assert not (tmp_path / "out.part").exists()
    with open_input(str(tmp_path / "out"), InputOptions(rate=24)) as images:
        found = [frame.pixels.mean() for frame in images]
    assert found == expected_levels(range(30))


def test_one_picture_takes_one_frame_and_no_second(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    upscale(clip, tmp_path / "one.png", input_options={"start": 1, "frames": 1})
    with open_input(str(tmp_path / "one.png")) as picture:
        assert [frame.pixels.mean() for frame in picture] == expected_levels([1])
    (tmp_path / "two.png").write_text("mine")
    with open_input(str(clip)) as video:
        unknown = replace(video, info=replace(video.info, frames=None))
        output = open_output(str(tmp_path / "two.png"), unknown, (96, 128), OutputOptions(overwrite=True))
    with output:
        output.write(np.zeros((96, 128, 3), np.uint8), 0, 1)
        output.write(np.zeros((96, 128, 3), np.uint8), 1, 1)
        with pytest.raises(UsageError, match="one image only"):
            output.finish()
    assert (tmp_path / "two.png").read_text() == "mine"


def test_png_to_png_is_lossless(tmp_path):
    upscale(make_images(tmp_path / "in", frames=5), tmp_path / "out", input_options={"rate": 24})
    with open_input(str(tmp_path / "out"), InputOptions(rate=24)) as images:
        for index, frame in enumerate(images):
            assert (frame.pixels == gray_level(index)).all()
            assert frame.pixels.shape == (96, 128, 3)


def open_for(tmp_path, target="out.mp4", **options):
    clip = tmp_path / "in.mp4"
    if not clip.exists():
        make_clip(clip, frames=2)
    with open_input(str(clip)) as video:
        size = options.pop("size", (96, 128))
        return open_output(str(tmp_path / target), video, size, OutputOptions(**options))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("out.mp4", {"codec": "nonsense"}, "no video encoder 'nonsense'"),
        ("out.mp4", {"codec": "aac"}, "'aac' encodes audio"),
        ("out.webm", {"codec": "libx264"}, "webm cannot hold libx264"),
        ("out.mp4", {"crf": 52}, "crf 52"),
        ("out.mp4", {"crf": -1}, "crf -1"),
        ("out.mkv", {"codec": "ffv1", "crf": 10}, "crf is not known for ffv1"),
        ("out.mp4", {"pixel_format": "nonsense"}, "no pixel format 'nonsense'"),
        ("out.mp4", {"pixel_format": "rgb24"}, "libx264 has no rgb24"),
        ("out.mp4", {"pixel_format": "yuv420p", "size": (47, 64)}, "yuv420p cannot hold an odd side.*64x47"),
        ("out.mp4", {"encoder_options": {"nonsense": "1"}}, "no option nonsense"),
        ("out.mp4", {"encoder_options": {"preset": "nonsense"}}, "refuses 128x96"),
        ("out.xyz", {}, "names no container"),
        ("out.png", {}, r"use a pattern such as out/%05d\.png"),
        ("out/%05d.jpg", {}, "written as PNG"),
        ("out.jpg", {}, "written as PNG"),
        ("in.mp4", {}, "is the input"),
        ("in.mp4", {"overwrite": True}, "is the input"),
    ],
)
def test_usage_errors_say_what_to_do_and_leave_nothing(tmp_path, target, options, message):
    with pytest.raises(UsageError, match=message):
        open_for(tmp_path, target, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("target", ["missing/out.mp4", "in.mp4/out.mp4", "missing/deep/%05d.png"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, target):
    with pytest.raises(VideoError, match=r"cannot be written .*check that the folder"):
        open_for(tmp_path, target)


def test_an_existing_output_is_kept_without_overwrite_and_replaced_with_it(tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"out\.mp4 exists already"):
        open_for(tmp_path)
    assert target.read_bytes() == b"precious"
    upscale(tmp_path / "in.mp4", target, overwrite=True)
    assert probe(target).frames == 2


def test_an_existing_sequence_is_replaced_whole(tmp_path):
    make_images(tmp_path / "out", frames=5)
    (tmp_path / "out" / "notes.txt").write_text("kept")
    with pytest.raises(UsageError, match=r"00001\.png exists already"):
        open_for(tmp_path, "out")
    upscale(tmp_path / "in.mp4", tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00001.png",
        "00002.png",
        "notes.txt",
    ]


def test_images_are_not_written_over_themselves(tmp_path):
    folder = make_images(tmp_path / "in", frames=3)
    with (
        open_input(str(folder), InputOptions(rate=24)) as images,
        pytest.raises(UsageError, match="among the input's files"),
    ):
        open_output(str(folder / "%05d.png"), images, (96, 128), OutputOptions(overwrite=True))


@pytest.mark.parametrize("target", ["out.mp4", "out"])
def test_the_final_name_appears_only_when_finished(tmp_path, target):
    output = open_for(tmp_path, target)
    output.write(np.zeros((96, 128, 3), np.uint8), 0, 1)
    assert not (tmp_path / target).exists()
    output.finish()
    output.abort()
    assert (tmp_path / target).exists()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("target", ["out.mp4", "out"])
def test_leaving_unfinished_removes_the_part(tmp_path, target):
    with open_for(tmp_path, target) as output:
        output.write(np.zeros((96, 128, 3), np.uint8), 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_frames_of_another_size_are_refused(tmp_path):
    with open_for(tmp_path) as output, pytest.raises(ValueError, match=r"\(96, 128, 3\), not \(95, 128, 3\)"):
        output.write(np.zeros((95, 128, 3), np.uint8), 0, 1)


@pytest.mark.parametrize("name", sorted(name for name in av.codecs_available if name.endswith(HARDWARE)))
def test_an_encoder_of_a_chip_gets_frames_from_memory(name):
    try:
        formats = av.Codec(name, "w").video_formats
    except UnknownCodecError:
        pytest.skip(f"{name} only decodes")
    info = VideoInfo("clip.mp4", 48, 64, Fraction(24), Fraction(1, 24), ColorTags(1, 1, 1, 1))
    settings = choose_encoder("matroska", (96, 128), info, OutputOptions(codec=name), lambda line: None)
    assert av.VideoFormat(settings.pixel_format).components
    assert settings.pixel_format in [each.name for each in formats]


def test_what_an_encoder_says_of_a_trial_is_no_damage_of_an_input_of_its_codec(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv420p10le")
    report, _ = upscale(clip, tmp_path / "out.mkv", codec="ffv1", encoder_options={})
    assert (report.truncated, probe(tmp_path / "out.mkv").frames) == (None, 8)

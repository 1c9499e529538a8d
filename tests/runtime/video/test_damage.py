import av
import pytest

from flashvsr_trt.errors import TruncatedInputError, VideoError
from flashvsr_trt.runtime.video.input import open_input
from tests.clips import make_clip, make_images, probe
from tests.runtime.nearest_session import upscale

EVERY_FRAME_A_KEY = {"preset": "ultrafast", "crf": "8", "g": "1"}


def cut(clip, fraction):
    """The first part of a file's bytes, as an interrupted copy leaves it."""
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * fraction)])
    return clip


def header_first(clip):
    """The same mp4 with its index before its data, so that a cut file can still be opened."""
    target = clip.with_name("faststart.mp4")
    with (
        av.open(str(clip)) as source,
        av.open(str(target), "w", container_options={"movflags": "faststart"}) as copy,
    ):
        streams = {s.index: copy.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return target


@pytest.mark.parametrize("audio_tracks", [0, 1])
@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi", "flv"])
def test_a_truncated_file_is_upscaled_as_far_as_it_goes_and_told(tmp_path, extension, audio_tracks):
    clip = make_clip(tmp_path / f"in.{extension}", frames=100, size=(96, 96), audio_tracks=audio_tracks)
    if extension == "mp4":
        clip = header_first(clip)
    report, _ = upscale(cut(clip, 0.6), tmp_path / "out.mp4")
    assert isinstance(report.truncated, TruncatedInputError)
    assert report.truncated.exit_code == 3
    assert f"the {report.frames} frames that could be decoded" in str(report.truncated)
    result = probe(tmp_path / "out.mp4")
    assert 20 < result.frames == report.frames < 100


def test_the_cut_frames_are_those_of_the_whole_file(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", frames=60, codec="ffv1")
    upscale(clip, tmp_path / "whole.mp4")
    report, _ = upscale(cut(clip, 0.5), tmp_path / "cut.mp4")
    whole, part = probe(tmp_path / "whole.mp4"), probe(tmp_path / "cut.mp4")
    assert part.levels == whole.levels[: report.frames]
    assert part.times == whole.times[: report.frames]


def test_damage_in_the_middle_is_skipped_and_told(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", frames=60, size=(96, 96), options=EVERY_FRAME_A_KEY)
    with av.open(str(clip)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][30]
    data = bytearray(clip.read_bytes())
    begin = data.index(bytes(packet)) + 5
    data[begin : begin + packet.size - 5] = b"\xff" * (packet.size - 5)
    clip.write_bytes(data)
    report, _ = upscale(clip, tmp_path / "out.mp4")
    assert "damaged or ends early" in str(report.truncated)
    assert 58 <= probe(tmp_path / "out.mp4").frames == report.frames <= 60


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov", "avi", "ts", "flv", "h264"])
@pytest.mark.parametrize("frames", [1, 21, 100])
def test_a_whole_file_is_not_taken_for_a_truncated_one(tmp_path, extension, frames):
    clip = make_clip(tmp_path / f"in.{extension}", frames=frames, options={"preset": "medium", "crf": "8"})
    assert upscale(clip, tmp_path / "out.mp4")[0].truncated is None


def test_a_recording_that_begins_inside_a_scene_starts_at_its_first_key_frame(tmp_path):
    clip = make_clip(
        tmp_path / "in.ts", frames=100, size=(96, 96), options={"preset": "medium", "crf": "8", "g": "25"}
    )
    data = clip.read_bytes()
    packets = len(data) // 188
    clip.write_bytes(data[packets // 10 * 188 :])
    report, _ = upscale(clip, tmp_path / "out.mp4")
    assert 75 <= report.frames < 100
    assert report.truncated is None


def test_sound_that_outlasts_the_video_is_no_truncation(tmp_path):
    clip = make_clip(tmp_path / "long.mkv", frames=72, audio_tracks=1)
    short = tmp_path / "short.mkv"
    with av.open(str(clip)) as source, av.open(str(short), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size and (packet.stream.type == "audio" or packet.pts * packet.time_base < 1):
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    report, _ = upscale(short, tmp_path / "out.mp4")
    assert report.truncated is None
    assert report.frames == 24


def test_a_limit_before_the_cut_is_no_truncation(tmp_path):
    clip = cut(header_first(make_clip(tmp_path / "in.mp4", frames=100, size=(96, 96))), 0.6)
    report, _ = upscale(clip, tmp_path / "out.mp4", input_options={"frames": 10})
    assert (report.frames, report.truncated) == (10, None)


def test_a_file_without_its_index_cannot_be_opened(tmp_path):
    clip = cut(make_clip(tmp_path / "in.mp4", frames=50), 0.5)
    with pytest.raises(VideoError, match="check that the file is complete"):
        open_input(str(clip))


def test_a_broken_image_ends_the_sequence(tmp_path):
    folder = make_images(tmp_path / "in", frames=9)
    (folder / "00006.png").write_bytes(b"no image")
    report, _ = upscale(folder, tmp_path / "out.mp4", input_options={"rate": 24})
    assert "00006.png" in str(report.truncated)
    assert "5 images before it" in str(report.truncated)
    assert probe(tmp_path / "out.mp4").frames == 5

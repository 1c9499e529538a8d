"""Streams next to the video: copied where the container holds them, converted where the caller asks."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_trt.errors import UsageError
from tests.clips import make_clip, probe
from tests.runtime.nearest_session import upscale

AUTO = {"audio_codec": "auto", "subtitle_codec": "auto"}
ONSET = Fraction(1, 4)
RATE = 48000


def clip_with_click(path, codec="flac", rate=RATE):
    """Half a second of video; sound that is silent until ONSET."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=24)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        audio = container.add_stream(codec, rate=rate)
        audio.layout = "stereo"
        for index in range(12):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        time = np.arange(rate // 2) / rate
        tone = np.where(time >= ONSET, 0.5 * np.sin(2 * np.pi * 440 * (time - float(ONSET))), 0)
        for first in range(0, len(tone), 1024):
            part = np.stack([tone[first : first + 1024]] * 2).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def heard(path):
    """Codec, rate, and when the sound begins and ends, less when the video begins."""
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0)).time
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        resampler = av.AudioResampler("flt", "mono")
        sound = np.concatenate(
            [part.to_ndarray()[0] for frame in [*frames, None] for part in resampler.resample(frame) if part]
        )
        onset = frames[0].time + int(np.argmax(np.abs(sound) > 0.1)) / frames[0].sample_rate
        name = stream.codec_context.codec.canonical_name
        return (
            name,
            frames[0].sample_rate,
            onset - picture,
            frames[0].time + len(sound) / stream.rate - picture,
        )


@pytest.mark.parametrize(
    ("extension", "encoder", "codec"),
    [
        ("mp4", "aac", "aac"),
        ("mkv", "aac", "aac"),
        ("mkv", "libopus", "opus"),
        ("webm", "opus", "opus"),
        ("ts", "aac", "aac"),
        ("mov", "pcm_s16le", "pcm_s16le"),
        ("mkv", "ac3", "ac3"),
        ("mp4", "alac", "alac"),
    ],
)
def test_converted_sound_stays_in_step(tmp_path, extension, encoder, codec):
    clip = clip_with_click(tmp_path / "in.mkv")
    upscale(clip, tmp_path / f"out.{extension}", encoder_options={}, audio_codec=encoder)
    found, rate, onset, end = heard(tmp_path / f"out.{extension}")
    assert (found, rate) == (codec, RATE)
    assert onset == pytest.approx(heard(clip)[2], abs=0.002)
    assert end == pytest.approx(0.5, abs=0.04)  # a frame of the codec


def test_a_rate_that_the_encoder_lacks_becomes_the_next(tmp_path):
    clip = clip_with_click(tmp_path / "in.mkv", rate=44100)
    upscale(clip, tmp_path / "out.mkv", audio_codec="libopus")
    assert heard(tmp_path / "out.mkv")[1] == 48000


@pytest.mark.parametrize("start", [3, 6])
def test_converted_sound_is_cut_to_the_sample(tmp_path, start):
    clip = clip_with_click(tmp_path / "in.mkv")
    upscale(clip, tmp_path / "out.mkv", audio_codec="aac", input_options={"start": start})
    expected = max(float(ONSET) - start / 24, 0)
    assert heard(tmp_path / "out.mkv")[2] == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize(
    ("codec", "extension", "made"),
    [("flac", "ts", "aac"), ("pcm_s16le", "webm", "opus"), ("flac", "flv", "flac"), ("aac", "mp4", "aac")],
)
def test_auto_converts_only_what_the_container_cannot_hold(tmp_path, codec, extension, made):
    clip = make_clip(tmp_path / "in.mkv", codec="mpeg4", audio_tracks=1, audio_codec=codec)
    _, notices = upscale(clip, tmp_path / f"out.{extension}", encoder_options={}, **AUTO)
    assert heard(tmp_path / f"out.{extension}")[0] == made
    assert any("is converted to" in line for line in notices) == (codec != made)


@pytest.mark.parametrize(
    ("source", "codec", "extension", "text"),
    [
        ("mkv", "subrip", "mp4", b"\0\x06A line"),
        ("mkv", "ass", "mov", b"\0\x06A line"),
        ("mkv", "subrip", "webm", b"A line"),
        ("mp4", "mov_text", "webm", b"A line"),
        ("mp4", "mov_text", "mkv", b"A line"),
    ],
)
def test_auto_converts_text_subtitles(tmp_path, source, codec, extension, text):
    clip = make_clip(tmp_path / f"in.{source}", frames=24, subtitles=codec)
    upscale(clip, tmp_path / f"out.{extension}", encoder_options={}, **AUTO)
    (line,) = [packet for packet in probe(tmp_path / f"out.{extension}").subtitles[0] if len(packet.data) > 2]
    assert line.time == 0
    assert text in line.data


def test_none_drops_without_a_word(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", audio_tracks=2, subtitles="subrip")
    _, notices = upscale(clip, tmp_path / "out.mkv", audio_codec="none", subtitle_codec="none")
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert [stream.type for stream in made.streams] == ["video"]
    assert notices == []


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        ({"audio_codec": "nonsense"}, "no audio encoder 'nonsense'"),
        ({"audio_codec": "libx264"}, "'libx264' encodes video, not audio"),
        ({"audio_codec": "wmav2"}, "mp4 cannot hold stream 1 .* as wmav2; use aac"),
        ({"subtitle_codec": "nonsense"}, "no subtitle encoder 'nonsense'"),
        ({"subtitle_codec": "dvdsub"}, "encodes no text subtitles"),
        ({"subtitle_codec": "webvtt"}, "mp4 cannot hold stream 2 .* as webvtt; use mov_text"),
    ],
)
def test_encoders_that_cannot_be_used_are_refused(tmp_path, codecs, message):
    clip = make_clip(tmp_path / "in.mkv", audio_tracks=1, subtitles="subrip")
    with pytest.raises(UsageError, match=message):
        upscale(clip, tmp_path / "out.mp4", **codecs)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw", "adpcm_ms", "adpcm_ima_wav", "adpcm_yamaha"])
def test_matroska_holds_what_avi_and_wav_hold(tmp_path, codec):
    clip = make_clip(tmp_path / "in.avi", codec="mpeg4", audio_tracks=1, audio_codec=codec)
    _, notices = upscale(clip, tmp_path / "out.mkv")
    assert [p.data for p in probe(tmp_path / "out.mkv").audio[0]] == [p.data for p in probe(clip).audio[0]]
    assert notices == []


@pytest.mark.parametrize("extension", ["mkv", "mp4"])
def test_flags_stay_and_statistics_of_the_old_file_go(tmp_path, extension):
    clip = tmp_path / "in.mkv"
    with av.open(str(clip), "w") as container:
        video = container.add_stream("mpeg4", rate=24)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.disposition = av.stream.Disposition.default
        video.metadata.update({"BPS-eng": "1", "NUMBER_OF_FRAMES-eng": "2", "title": "a-b"})
        for index in range(8):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    upscale(clip, tmp_path / f"out.{extension}")
    with av.open(str(tmp_path / f"out.{extension}")) as made:
        stream = made.streams.video[0]
        assert stream.disposition & av.stream.Disposition.default
        assert not [key for key in stream.metadata if "eng" in key]


@pytest.mark.parametrize("extension", ["mkv", "mp4", "mov"])
def test_cover_art_and_fonts(tmp_path, extension):
    with (
        av.open(str(make_clip(tmp_path / "plain.mkv"))) as plain,
        av.open(str(tmp_path / "in.mkv"), "w") as container,
    ):
        video = container.add_stream_from_template(plain.streams.video[0])
        with av.open(str(tmp_path / "cover.png"), "w", format="image2") as image:
            stream = image.add_stream("png", rate=1)
            stream.height, stream.width, stream.pix_fmt = 8, 8, "rgb24"
            image.mux(stream.encode(av.VideoFrame(8, 8, "rgb24")))
            image.mux(stream.encode(None))
        container.add_attachment("cover.png", "image/png", (tmp_path / "cover.png").read_bytes())
        container.add_attachment("a.ttf", "application/x-truetype-font", b"\0\1\0\0font")
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux_one(packet)
    _, notices = upscale(tmp_path / "in.mkv", tmp_path / f"out.{extension}")
    with av.open(str(tmp_path / f"out.{extension}")) as made:
        cover = av.stream.Disposition.attached_pic
        covers = len([stream for stream in made.streams.video if stream.disposition & cover])
        fonts = [stream.name for stream in made.streams if stream.type == "attachment"]
    assert covers == (extension != "mov")
    assert any("cover art" in line and "is not copied" in line for line in notices) == (not covers)
    assert fonts == (["a.ttf"] if extension == "mkv" else [])
    assert any("attachment" in line and "is not copied" in line for line in notices) == (fonts == [])


@pytest.mark.parametrize("codec", ["flac", "pcm_s16le", "alac", "aac", "ac3", "subrip", "ass"])
def test_mpegts_gets_nothing_that_no_player_reads(tmp_path, codec):
    text = {"subrip", "ass"}
    streams = {"subtitles": codec} if codec in text else {"audio_tracks": 1, "audio_codec": codec}
    clip = make_clip(tmp_path / "in.mkv", **streams)
    _, notices = upscale(clip, tmp_path / "out.ts")
    with av.open(str(tmp_path / "out.ts")) as made:
        kinds = [stream.type for stream in made.streams]
    held = codec in ("aac", "ac3")
    assert kinds == (["video", "audio"] if held else ["video"])
    assert len([line for line in notices if "is not copied: mpegts cannot hold it" in line]) == (not held)


REFUSING = ("ogv", "dv", "rm", "ivf", "hevc", "m2v", "swf", "h261", "roq", "m1v", "mjpeg", "amv")
HOLDING = ("mxf", "wtv", "264", "3gp", "flv", "vob", "ts", "avi", "asf", "m4v")


@pytest.mark.parametrize("extension", REFUSING)
def test_a_container_that_cannot_hold_the_video_says_so_at_once(tmp_path, extension):
    clip = make_clip(tmp_path / "in.mkv", audio_tracks=1)
    with pytest.raises(UsageError, match="cannot hold libx264"):
        upscale(clip, tmp_path / f"out.{extension}", codec="libx264")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize("extension", HOLDING)
def test_a_container_that_holds_the_video_gets_every_frame(tmp_path, extension):
    clip = make_clip(tmp_path / "in.mkv", audio_tracks=1)
    upscale(clip, tmp_path / f"out.{extension}", codec="libx264")
    found = probe(tmp_path / f"out.{extension}")
    assert (found.codec, found.frames) == ("h264", 8)


def test_sound_that_cannot_be_read_any_further_is_kept_up_to_there(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", frames=24, audio_tracks=1)
    content = bytearray(source.read_bytes())
    sizes = content.rindex(b"stsz") + 16
    content[sizes + 20 : sizes + 24] = (1 << 29).to_bytes(4, "big")  # of the sixth packet
    source.write_bytes(content)
    report, _ = upscale(source, tmp_path / "out.mkv")
    assert "reading stopped" in str(report.truncated)
    (sound,) = probe(tmp_path / "out.mkv").audio
    assert len(sound) == 5

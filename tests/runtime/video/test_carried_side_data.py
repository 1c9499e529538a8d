"""What rides on frames: kept where the encoder takes it, else announced in one line."""

import av
import pytest

from flashvsr_trt.runtime.video.beside import side_data
from tests.clips import make_clip
from tests.runtime.nearest_session import upscale

MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
X265_HDR = {
    "x265-params": f"log-level=none:hdr10=1:repeat-headers=1:master-display={MASTERING}:max-cll=1000,400"
}
CAPTION = bytes([0xFC, 0x94, 0x20])
CAPTION_SEI = b"\xb5\x00\x31GA94" + bytes([0x03, 0xC1, 0xFF]) + CAPTION + b"\xff"
HDR_KINDS = ["CONTENT_LIGHT_LEVEL", "MASTERING_DISPLAY_METADATA"]


def hdr_clip(path):
    return make_clip(path, frames=5, codec="libx265", pixel_format="yuv420p10le", options=X265_HDR)


def captioned_clip(folder):
    """H.264 with a caption in each picture: an SEI message before its slices."""
    sei = bytes([0, 0, 0, 1, 6, 4, len(CAPTION_SEI)]) + CAPTION_SEI + b"\x80"
    make_clip(folder / "plain.ts", frames=5)
    with av.open(str(folder / "plain.ts")) as plain, av.open(str(folder / "in.ts"), "w") as made:
        target = made.add_stream_from_template(plain.streams.video[0])
        for packet in plain.demux(video=0):
            if packet.size:
                data = bytes(packet)
                delimiter = data.find(b"\0\0\0\1\x09")
                at = delimiter + 6 if delimiter >= 0 else 0
                captioned = av.Packet(data[:at] + sei + data[at:])
                captioned.pts, captioned.dts, captioned.time_base = packet.pts, packet.dts, packet.time_base
                captioned.is_keyframe, captioned.stream = packet.is_keyframe, target
                made.mux_one(captioned)
    return folder / "in.ts"


def kinds(path):
    """What rides on the frames, by kind: the bytes on each frame that has some."""
    found = {}
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            for kind, data in side_data(frame).items():
                found.setdefault(kind, []).append(data)
    found.pop("SEI_UNREGISTERED", None)
    return found


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_hdr10_metadata_is_kept(tmp_path, codec, extension):
    clip = hdr_clip(tmp_path / "in.mkv")
    _, notices = upscale(clip, tmp_path / f"out.{extension}", codec=codec, encoder_options={})
    before, after = kinds(clip), kinds(tmp_path / f"out.{extension}")
    assert sorted(after) == HDR_KINDS
    assert after["CONTENT_LIGHT_LEVEL"][0] == before["CONTENT_LIGHT_LEVEL"][0]
    if codec != "libsvtav1":  # AV1 stores the same numbers in other fractions
        assert after["MASTERING_DISPLAY_METADATA"][0] == before["MASTERING_DISPLAY_METADATA"][0]
    assert not [line for line in notices if "not kept" in line]


def test_the_callers_encoder_parameters_stay_beside_hdr10(tmp_path):
    clip = hdr_clip(tmp_path / "in.mkv")
    options = {"x265-params": "log-level=none:keyint=2"}
    upscale(clip, tmp_path / "out.mkv", codec="libx265", encoder_options=options)
    assert sorted(kinds(tmp_path / "out.mkv")) == HDR_KINDS
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert [packet.is_keyframe for packet in made.demux(video=0) if packet.size].count(True) == 3


def test_what_an_encoder_does_not_take_is_said_once(tmp_path):
    _, notices = upscale(
        hdr_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv", codec="ffv1", encoder_options={}
    )
    assert [line.split(": ", 1)[1] for line in notices if "not kept" in line] == [
        "HDR10 mastering display not kept: ffv1 takes none; libx264, libx265, libsvtav1 would",
        "HDR10 content light level not kept: ffv1 takes none; libx264, libx265, libsvtav1 would",
    ]


@pytest.mark.parametrize("extension", ["ts", "mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_closed_captions_are_kept_on_every_frame(tmp_path, codec, extension):
    clip = captioned_clip(tmp_path)
    assert kinds(clip)["A53_CC"] == [CAPTION] * 5
    _, notices = upscale(clip, tmp_path / f"out.{extension}", codec=codec, encoder_options={})
    assert kinds(tmp_path / f"out.{extension}")["A53_CC"] == [CAPTION] * 5
    assert not [line for line in notices if "not kept" in line]


def test_lost_captions_are_said_once(tmp_path):
    _, notices = upscale(captioned_clip(tmp_path), tmp_path / "out.mkv", codec="ffv1", encoder_options={})
    assert len([line for line in notices if "closed captions (A53) not kept" in line]) == 1

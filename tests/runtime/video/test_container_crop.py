"""Matroska's PixelCrop and mp4's clap: the hidden part of the frame is not in the output."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.video.picture import Crop, PictureReader
from tests.clips import make_clip
from tests.runtime.nearest_session import upscale

SIZE = (64, 96)
MATROSKA_CROPS = {"top": b"\x54\xbb", "bottom": b"\x54\xaa", "left": b"\x54\xcc", "right": b"\x54\xdd"}
DISPLAY_UNIT = b"\x54\xb2\x81\x04"
"""An element of the track that a crop of one byte can take the place of."""


def bordered(top: int, bottom: int, left: int, right: int):
    """Magenta where nobody should look, and a picture inside."""

    def picture(index: int, height: int, width: int) -> np.ndarray:
        pixels = np.full((height, width, 3), (255, 0, 255), np.uint8)
        pixels[top : height - bottom, left : width - right] = (40, 160, 80)
        return pixels

    return picture


def crop_matroska(path: Path, side: str, pixels: int) -> None:
    data = path.read_bytes()
    assert data.count(DISPLAY_UNIT) == 1
    path.write_bytes(data.replace(DISPLAY_UNIT, MATROSKA_CROPS[side] + b"\x81" + bytes([pixels])))


def crop_mp4(path: Path, top: int, bottom: int, left: int, right: int) -> None:
    """Puts a clap box at the end of the video's sample entry."""
    height, width = SIZE[0] - top - bottom, SIZE[1] - left - right
    centre = (left - right, 2), (top - bottom, 2)
    box = struct.pack(">I4sIIIIiIiI", 40, b"clap", width, 1, height, 1, *centre[0], *centre[1])
    data = bytearray(path.read_bytes())
    entry = data.find(b"avc1", data.find(b"stsd")) - 4
    end = entry + struct.unpack(">I", data[entry : entry + 4])[0]
    boxes = [data.find(name) - 4 for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")]
    data[end:end] = box
    for start in (*boxes, entry):
        data[start : start + 4] = struct.pack(
            ">I", struct.unpack(">I", data[start : start + 4])[0] + len(box)
        )
    path.write_bytes(data)


def output_of(tmp_path: Path, clip: Path) -> tuple[np.ndarray, list[str]]:
    _, notices = upscale(clip, tmp_path / "out.mkv", crf=4)
    with av.open(str(tmp_path / "out.mkv")) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24"), notices


@pytest.mark.parametrize("side", MATROSKA_CROPS)
def test_a_crop_of_matroska_is_applied(tmp_path, side):
    border = dict.fromkeys(MATROSKA_CROPS, 0) | {side: 8}
    clip = make_clip(tmp_path / "in.mkv", size=SIZE, picture=bordered(**border), frames=3)
    crop_matroska(clip, side, 8)
    pixels, notices = output_of(tmp_path, clip)
    height, width = SIZE[0] - border["top"] - border["bottom"], SIZE[1] - border["left"] - border["right"]
    assert pixels.shape == (2 * height, 2 * width, 3)
    # The encoder's own 4:2:0 puts some of the border's colour into the samples next to it.
    assert np.abs(pixels.astype(int) - (40, 160, 80)).max() < 40
    assert notices == [f"{clip}: the container crops 96x64 to {width}x{height}"]


@pytest.mark.parametrize("border", [(8, 0, 0, 0), (2, 6, 10, 4), (3, 5, 7, 1)], ids=str)
def test_a_clean_aperture_of_mp4_is_applied(tmp_path, border):
    clip = make_clip(
        tmp_path / "in.mp4",
        size=SIZE,
        picture=bordered(*border),
        frames=3,
        pixel_format="yuv444p",
    )
    crop_mp4(clip, *border)
    pixels, _ = output_of(tmp_path, clip)
    top, bottom, left, right = border
    assert pixels.shape == (2 * (SIZE[0] - top - bottom), 2 * (SIZE[1] - left - right), 3)
    assert np.abs(pixels.astype(int) - (40, 160, 80)).max() < 24


@pytest.mark.parametrize("crop", [Crop(top=40, bottom=24), Crop(left=96)])
def test_a_crop_that_leaves_nothing_is_named(crop):
    frame = av.VideoFrame(96, 64, "yuv420p")
    with pytest.raises(VideoError, match="crop leaves nothing of 96x64"):
        PictureReader("in.mkv", frame, "h264", print, crop)

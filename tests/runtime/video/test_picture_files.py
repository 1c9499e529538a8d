"""Pictures of cameras and tools: EXIF, its eight orientations, gray, palettes, CMYK, 16 bits."""

import io

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from flashvsr_trt.runtime.request import InputOptions
from flashvsr_trt.runtime.video.input import open_input
from tests.clips import make_clip
from tests.runtime.nearest_session import upscale

SIZE = (48, 64)


def corners() -> Image.Image:
    """A picture that no turn and no mirror leaves as it is."""
    picture = Image.new("RGB", SIZE[::-1], (200, 30, 60))
    picture.paste((20, 220, 90), (0, 0, 64, 12))
    picture.paste((10, 20, 230), (0, 0, 16, 48))
    return picture


def exif(orientation: int | None) -> Image.Exif:
    tags = Image.Exif()
    tags[0x10F] = "Camera maker"
    if orientation:
        tags[0x112] = orientation
    return tags


def first_frame(path):
    notices = []
    with open_input(str(path), InputOptions(rate=24), notify=notices.append) as video:
        return video.info, next(iter(video)), notices


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_pictures_stand_upright_as_their_exif_says(tmp_path, extension, orientation):
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(extension, {})
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        corners().save(folder / f"{number}.{extension}", exif=exif(orientation), **options)
    info, frame, notices = first_frame(folder)
    with Image.open(folder / f"1.{extension}") as stored:
        expected = np.array(ImageOps.exif_transpose(stored).convert("RGB")).astype(int)
    assert (info.height, info.width) == expected.shape[:2] == frame.pixels.shape[:2]
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 3
    assert not [line for line in notices if "alpha" in line]


def test_pictures_of_two_orientations_have_one_size_when_they_are_shown_so(tmp_path):
    corners().save(tmp_path / "1.png")
    corners().rotate(90, expand=True).save(tmp_path / "2.png", exif=exif(6))
    with open_input(str(tmp_path), InputOptions(rate=24)) as video:
        one, other = (frame.pixels for frame in video)
    np.testing.assert_array_equal(one, other)


def test_motion_jpeg_whose_frames_carry_exif(tmp_path):
    jpeg = io.BytesIO()
    corners().save(jpeg, "jpeg", quality=95, exif=exif(1))
    with av.open(str(tmp_path / "in.avi"), "w") as container:
        video = container.add_stream("mjpeg", rate=15)
        video.width, video.height, video.pix_fmt = *SIZE[::-1], "yuvj420p"
        for index in range(5):
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts = video, index, index
            packet.time_base, packet.is_keyframe = 1 / video.average_rate, True
            container.mux_one(packet)
    report, notices = upscale(tmp_path / "in.avi", tmp_path / "out.mkv")
    assert (report.frames, report.truncated) == (5, None)
    assert notices == []


def two_halves(mode, left, right):
    picture = Image.new(mode, SIZE[::-1], left)
    picture.paste(right, (32, 0, 64, 48))
    return picture


RED, GREEN = (200, 30, 60), (20, 220, 90)
PICTURES = {
    "gray.png": (two_halves("L", 10, 245), (10,) * 3, (245,) * 3),
    "gray.jpg": (two_halves("L", 10, 245), (10,) * 3, (245,) * 3),
    "gray.bmp": (two_halves("L", 10, 245), (10,) * 3, (245,) * 3),
    "gray.tif": (two_halves("L", 10, 245), (10,) * 3, (245,) * 3),
    "gray_alpha.png": (two_halves("LA", (10, 255), (245, 100)), (10,) * 3, (245,) * 3),
    "bilevel.png": (two_halves("1", 0, 1), (0,) * 3, (255,) * 3),
    "gray16.png": (
        Image.fromarray(np.repeat(np.array([[2570] * 32 + [62965] * 32], np.uint16), 48, axis=0)),
        (10,) * 3,
        (245,) * 3,
    ),
    "palette.png": (two_halves("RGB", RED, GREEN).convert("P", palette=Image.Palette.ADAPTIVE), RED, GREEN),
    "rgba.png": (two_halves("RGBA", (*RED, 255), (*GREEN, 80)), RED, GREEN),
    "cmyk.jpg": (two_halves("RGB", RED, GREEN).convert("CMYK"), RED, GREEN),
    "alpha.webp": (two_halves("RGBA", (*RED, 255), (*GREEN, 80)), RED, GREEN),
}


@pytest.mark.parametrize("name", PICTURES)
def test_levels_are_those_stored(tmp_path, name):
    picture, left, right = PICTURES[name]
    options = {"jpg": {"quality": 98}, "webp": {"lossless": True, "exact": True}}.get(
        name[-3:].strip("."), {}
    )
    if name.endswith("webp"):
        options = {"lossless": True, "exact": True}
    picture.save(tmp_path / name, **options)
    info, frame, _ = first_frame(tmp_path / "*.*")
    np.testing.assert_allclose(frame.pixels[24, 12], left, atol=3)
    np.testing.assert_allclose(frame.pixels[24, 52], right, atol=3)
    assert info.bits == (16 if "16" in name else 8)
    assert info.alpha == ("alpha" in name or "rgba" in name)


def ycck(picture: Image.Image) -> bytes:
    """A CMYK JPEG stored as luma, chroma and black: Adobe's transform 2, which PIL does not write."""
    red, green, blue = (np.array(part).astype(float) for part in picture.convert("RGB").split())
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402
    planes = [luma, *chroma, np.zeros_like(luma)]
    raw = np.dstack(planes).round().clip(0, 255).astype(np.uint8)
    stored = io.BytesIO()
    Image.fromarray(raw, "CMYK").save(stored, "jpeg", quality=98)
    data = bytearray(stored.getvalue())
    data[data.find(b"Adobe") + 11] = 2
    # Frame and scan name their components C, M, Y and K, which FFmpeg believes before it believes Adobe.
    frame, scan = data.find(b"\xff\xc0") + 10, data.find(b"\xff\xda") + 5
    for number in range(4):
        data[frame + 3 * number] = data[scan + 2 * number] = number + 1
    return bytes(data)


def test_ycck(tmp_path):
    (tmp_path / "1.jpg").write_bytes(ycck(two_halves("RGB", RED, GREEN)))
    with Image.open(tmp_path / "1.jpg") as stored:
        expected = np.array(stored.convert("RGB"))
    np.testing.assert_allclose(expected[24, 12], RED, atol=6)
    info, frame, _ = first_frame(tmp_path)
    np.testing.assert_allclose(frame.pixels[24, 12], RED, atol=6)
    np.testing.assert_allclose(frame.pixels[24, 52], GREEN, atol=6)
    assert not info.alpha


def test_an_upright_display_matrix_is_no_rotation(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", frames=1)
    with open_input(str(clip)) as video:
        assert video.info.display_matrix is None

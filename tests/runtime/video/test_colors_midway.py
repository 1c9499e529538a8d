"""Matrix, range, pixel format and depth that change inside a stream: each frame is read by its own."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.picture import PictureReader
from tests.runtime.nearest_session import upscale
from tests.runtime.video.test_flat_patches import encoded

RGB = (60, 120, 180)
LIMITED, FULL = 1, 2
BEGIN = (6, LIMITED, "yuv420p", 1)


def frame_of(matrix, color_range, pixel_format="yuv420p", transfer=1):
    frame = av.VideoFrame(64, 48, pixel_format)
    bits = frame.format.components[0].bits
    numbers = encoded(np.array(RGB), matrix, color_range, bits)
    for plane, number in zip(frame.planes, numbers, strict=True):
        sample = np.uint16 if bits > 8 else np.uint8
        plane.update(np.full(plane.buffer_size // sample().nbytes, number, sample).tobytes())
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = (
        matrix,
        color_range,
        1,
        transfer,
    )
    return frame


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ((6, FULL), None),
        ((1, LIMITED), None),
        ((9, FULL), None),
        ((6, LIMITED, "yuv422p"), None),
        ((6, LIMITED, "yuv444p10le"), "yuv444p10le begins at frame 1"),
        ((6, LIMITED, "yuv420p", 16), "primaries or transfer change at frame 1"),
    ],
    ids=str,
)
def test_a_frame_is_read_by_its_own_numbers(second, said):
    notices = []
    first = frame_of(*BEGIN)
    reader = PictureReader("in.ts", first, "h264", notices.append)
    for index, frame in enumerate([first, frame_of(*second), frame_of(*second), first]):
        pixels, _ = reader.read(frame, index)
        np.testing.assert_allclose(pixels[20, 20], RGB, atol=1)
    assert len(notices) == (said is not None)
    assert all(said in notice for notice in notices)


@pytest.mark.parametrize("second", [(6, FULL), (1, LIMITED)], ids=str)
def test_two_scenes_joined_without_encoding_keep_their_colors(tmp_path, second):
    joined = b""
    for number, (matrix, color_range) in enumerate([(6, LIMITED), second]):
        part = tmp_path / f"{number}.ts"
        with av.open(str(part), "w") as container:
            options = {"qp": "0", "preset": "ultrafast"}
            video = container.add_stream("libx264", rate=25, options=options, time_base=Fraction(1, 90000))
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.codec_context.colorspace, video.codec_context.color_range = matrix, color_range
            for index in range(8):
                frame = frame_of(matrix, color_range)
                frame.pts, frame.time_base = 90000 + (8 * number + index) * 3600, Fraction(1, 90000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        joined += part.read_bytes()
    (tmp_path / "in.ts").write_bytes(joined)
    upscale(tmp_path / "in.ts", tmp_path / "out.mkv", pixel_format="yuv444p", crf=1)
    with open_input(str(tmp_path / "out.mkv")) as video:
        frames = list(video)
    assert len(frames) == 16
    for frame in frames:
        np.testing.assert_allclose(frame.pixels[40, 60], RGB, atol=2)


@pytest.mark.parametrize(("bits", "black", "white"), [(8, 16, 235), (10, 64, 940)])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_gray_video_is_read_in_its_range(bits, black, white, color_range):
    name = "gray" if bits == 8 else "gray10le"
    sample = np.uint8 if bits == 8 else np.uint16
    numbers = (black, white) if color_range == LIMITED else (0, 2**bits - 1)
    frame = av.VideoFrame(64, 48, name)
    row = np.repeat(np.array(numbers, sample), 32)
    stored = np.zeros((48, frame.planes[0].line_size // sample().nbytes), sample)
    stored[:, :64] = row
    frame.planes[0].update(stored.tobytes())
    frame.color_range = color_range
    pixels, _ = PictureReader("in.mkv", frame, "ffv1", lambda line: None).read(frame, 0)
    assert pixels[20, 10].tolist() == [0, 0, 0]
    assert pixels[20, 50].tolist() == [255, 255, 255]

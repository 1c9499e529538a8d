"""Chroma lies in the output where it lay in the input: measured on waves of Cb and Cr, and by the tag."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_trt.runtime.video.frame_filter import FrameFilter, chroma_location
from tests.runtime.nearest_session import SCALE, upscale

PERIOD = 32
"""Luma pixels of one wave in the input."""
SIDE = 128
OFFSETS = {
    "left": (0.5, 0.0),
    "center": (0.5, 0.5),
    "topleft": (0.0, 0.0),
    "top": (0.0, 0.5),
    "bottomleft": (1.0, 0.0),
}
"""Luma rows and columns from the first luma sample to the first chroma sample, in 4:2:0."""


def wave(count: int, step: int, offset: float, scale: int = 1) -> np.ndarray:
    """Samples of one wave along an axis whose samples lie `step` luma pixels apart, from `offset` on."""
    return np.cos(2 * np.pi * (np.arange(count) * step + offset - (scale - 1) / 2) / (PERIOD * scale))


def displacement(samples: np.ndarray, step: int, offset: float) -> float:
    """How many output pixels a wave of an axis lies behind its place."""
    positions = np.arange(len(samples)) * step + offset - (SCALE - 1) / 2
    window = np.hanning(len(samples))
    turned = ((samples - samples.mean()) * window * np.exp(-2j * np.pi * positions / (PERIOD * SCALE))).sum()
    return float(-np.angle(turned) * PERIOD * SCALE / (2 * np.pi))


def write_waves(path: Path, pixel_format: str, location: str, tagged: bool, codec: str) -> None:
    """Cb waves from left to right and Cr waves from top to bottom, their samples where `location` says."""
    frame = av.VideoFrame(SIDE, SIDE, pixel_format)
    layout = frame.format
    steps = SIDE // layout.chroma_height(SIDE), SIDE // layout.chroma_width(SIDE)
    row_offset, column_offset = OFFSETS[location]
    row_offset = row_offset if steps[0] == 2 else 0.0
    deep = "10" in pixel_format
    unit = 4 if deep else 1
    for index, plane in enumerate(frame.planes):
        picture = np.full((plane.height, plane.width), 128.0)
        if index == 1:
            picture += 50 * wave(plane.width, steps[1], column_offset)
        if index == 2:
            picture += 50 * wave(plane.height, steps[0], row_offset)[:, None]
        samples = np.uint16 if deep else np.uint8
        rows = np.zeros((plane.height, plane.line_size // samples().itemsize), samples)
        rows[:, : plane.width] = (picture * unit).round()
        plane.update(rows.tobytes())
    frame.colorspace = frame.color_range = frame.color_primaries = frame.color_trc = 1
    options = {"qp": "0", "preset": "ultrafast"} if codec == "libx264" else {}
    if tagged:
        options["chroma_sample_location"] = location
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.width, video.height, video.pix_fmt = SIDE, SIDE, pixel_format
        encoder = video.codec_context
        encoder.colorspace = encoder.color_range = encoder.color_primaries = encoder.color_trc = 1
        for index in range(2):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


@pytest.mark.parametrize(
    ("pixel_format", "location", "codec"),
    [
        *(("yuv420p", location, "libx264") for location in OFFSETS),
        ("yuv420p10le", "left", "libx264"),
        ("yuv420p10le", "topleft", "libx264"),
        ("yuv422p", "left", "libx264"),
        ("yuv420p", "center", "ffv1"),
    ],
)
def test_chroma_is_within_a_tenth_of_an_output_pixel(tmp_path, pixel_format, location, codec):
    write_waves(tmp_path / "in.mkv", pixel_format, location, True, codec)
    upscale(tmp_path / "in.mkv", tmp_path / "out.mkv", pixel_format=pixel_format, crf=0)
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
    assert chroma_location(frame) == location
    samples = np.uint16 if "10" in pixel_format else np.uint8
    planes = [
        np.frombuffer(p, samples).reshape(p.height, -1)[:, : p.width].astype(float) for p in frame.planes
    ]
    steps = frame.height // planes[1].shape[0], frame.width // planes[1].shape[1]
    row_offset, column_offset = OFFSETS[location]
    across = displacement(planes[1][planes[1].shape[0] // 2], steps[1], column_offset)
    down = displacement(planes[2][:, planes[2].shape[1] // 2], steps[0], row_offset if steps[0] == 2 else 0.0)
    assert abs(across) < 0.1
    assert abs(down) < 0.1


@pytest.mark.parametrize(("codec", "extension"), [("libvpx-vp9", "webm"), ("ffv1", "avi")])
def test_chroma_that_nobody_placed_is_read_and_written_at_the_left(tmp_path, codec, extension):
    write_waves(tmp_path / f"in.{extension}", "yuv420p", "left", False, codec)
    upscale(tmp_path / f"in.{extension}", tmp_path / "out.mkv", crf=0)
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
    assert chroma_location(frame) == "left"
    plane = frame.planes[1]
    row = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[plane.height // 2, : plane.width]
    assert abs(displacement(row.astype(float), 2, 0.0)) < 0.1


@pytest.mark.parametrize(
    ("target", "options", "written"),
    [("out.mp4", {"codec": "libsvtav1"}, "left"), ("out.avi", {"codec": "mjpeg"}, "center")],
)
def test_chroma_goes_where_decoders_look_when_the_output_cannot_say(tmp_path, target, options, written):
    write_waves(tmp_path / "in.mkv", "yuv420p", "bottomleft", True, "libx264")
    upscale(tmp_path / "in.mkv", tmp_path / target, encoder_options={}, **options)
    with av.open(str(tmp_path / target)) as container:
        frame = next(container.decode(video=0))
    assert chroma_location(frame) == written
    row_offset, _ = OFFSETS[written]
    plane = frame.planes[2]
    column = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, plane.width // 2]
    assert abs(displacement(column.astype(float), 2, row_offset)) < 0.15


@pytest.mark.parametrize("location", ["unspecified", *OFFSETS])
def test_a_frame_is_told_and_says_where_its_chroma_lies(location):
    frame = av.VideoFrame(1920, 16, "yuv420p")
    frame.pts, frame.time_base, frame.duration = 7, Fraction(1, 25), 1
    frame.colorspace, frame.color_range = 9, 2
    told = FrameFilter("setparams", chroma_location=location).through(frame)
    assert chroma_location(told) == location
    assert (told.pts, told.time_base, told.duration) == (7, Fraction(1, 25), 1)
    assert (told.colorspace, told.color_range) == (9, 2)

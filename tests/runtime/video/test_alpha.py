"""Alpha goes beside the colours into what can hold it; what cannot says so."""

import av
import numpy as np
import pytest
from PIL import Image

from flashvsr_trt.runtime.request import InputOptions
from flashvsr_trt.runtime.video.frame_reader import with_alpha
from flashvsr_trt.runtime.video.input import open_input
from tests.clips import make_clip
from tests.runtime.nearest_session import upscale

SIZE = (48, 64)
COLOR = (200, 60, 90)
ENCODERS = {
    "in.mov": ("prores_ks", "yuva444p10le"),
    "in.webm": ("libvpx-vp9", "yuva420p"),
    "vp8.webm": ("libvpx", "yuva420p"),
    "qtrle.mov": ("qtrle", "argb"),
    "in.mkv": ("ffv1", "yuva422p"),
    "rgb.mkv": ("ffv1", "bgra"),
    "png.mov": ("png", "rgba"),
}


def alpha_of(index: int) -> np.ndarray:
    """A wave of transparency from left to right that moves, opaque above."""
    alpha = 128 + 100 * np.sin((np.arange(SIZE[1]) + 6 * index) / 9)
    alpha = np.broadcast_to(alpha.round().astype(np.uint8), SIZE).copy()
    alpha[: SIZE[0] // 2] = 255
    return alpha


def write_clip(path, codec, pixel_format, frames=3):
    with av.open(str(path), "w") as container:
        options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = *SIZE, pixel_format
        if codec.startswith("libvpx"):
            video.metadata["alpha_mode"] = "1"
        for index in range(frames):
            pixels = np.dstack([np.full((*SIZE, 3), COLOR, np.uint8), alpha_of(index)])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pixel_format)
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def read_rgba(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = with_alpha(stream, 1)
        frames = [
            frame for packet in container.demux(stream) if packet.size for frame in decoder.decode(packet)
        ]
        frames += decoder.decode(None)
    return stream.codec_context.name, [frame.to_ndarray(format="rgba") for frame in frames]


def check(frames, tolerance):
    """Alpha is the bicubic enlargement of the input's; colours are whole wherever it is transparent."""
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        assert frame.shape == (2 * SIZE[0], 2 * SIZE[1], 4)
        expected = Image.fromarray(alpha_of(index)).resize(
            (2 * SIZE[1], 2 * SIZE[0]), Image.Resampling.BICUBIC
        )
        error = np.abs(frame[..., 3].astype(int) - np.array(expected))[:, 4:-4]
        assert np.median(error) <= tolerance
        assert error[: SIZE[0] - 8].max() <= tolerance
        assert np.abs(frame[..., :3].astype(int) - COLOR).max() < 16


@pytest.mark.parametrize("name", ENCODERS)
def test_alpha_is_read_from_every_codec_that_has_it(tmp_path, name):
    clip = write_clip(tmp_path / name, *ENCODERS[name])
    with open_input(str(clip)) as video:
        assert video.info.alpha
        for index, frame in enumerate(video):
            alpha = frame.beside.alpha.astype(float)
            scale = 255 / np.iinfo(frame.beside.alpha.dtype).max
            np.testing.assert_allclose(alpha * scale, alpha_of(index), atol=16 if "webm" in name else 1)


@pytest.mark.parametrize(
    ("target", "options", "codec"),
    [
        ("out.mov", {}, "prores"),
        ("out.webm", {}, "vp9"),
        ("out.mkv", {}, "vp9"),
        ("out.mov", {"codec": "qtrle"}, "qtrle"),
        ("out.mkv", {"codec": "ffv1"}, "ffv1"),
    ],
)
@pytest.mark.parametrize("source", ["in.mov", "in.webm"])
def test_alpha_is_upscaled_into_what_holds_it(tmp_path, source, target, options, codec):
    clip = write_clip(tmp_path / source, *ENCODERS[source])
    output = tmp_path / f"result_{target}"
    _, notices = upscale(clip, output, encoder_options={}, **options)
    written, frames = read_rgba(output)
    assert written == codec
    check(frames, tolerance=4)
    assert not [line for line in notices if "alpha is not kept" in line]


@pytest.mark.parametrize(("source", "mode"), [("in.webm", "RGBA"), ("rgb.mkv", "RGBA")])
def test_alpha_is_upscaled_into_png(tmp_path, source, mode):
    clip = write_clip(tmp_path / source, *ENCODERS[source])
    upscale(clip, f"{tmp_path}/out/")
    pictures = [Image.open(path) for path in sorted((tmp_path / "out").iterdir())]
    assert {picture.mode for picture in pictures} == {mode}
    check([np.array(picture) for picture in pictures], tolerance=4)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_an_output_without_alpha_says_what_would_keep_it(tmp_path, codec):
    clip = write_clip(tmp_path / "in.mkv", *ENCODERS["in.mkv"])
    _, notices = upscale(clip, tmp_path / "out.mkv", codec=codec)
    lost = [line for line in notices if line.startswith(f"alpha is not kept in {codec} yuv420p")]
    assert len(lost) == 1
    assert "--codec prores_ks in .mov, libvpx-vp9 in .webm" in lost[0]


def test_an_opaque_palette_has_no_alpha_and_a_transparent_one_has(tmp_path):
    for name, index in (("opaque", None), ("transparent", 0)):
        (tmp_path / name).mkdir()
        picture = Image.new("P", SIZE[::-1], 0)
        picture.putpalette([200, 30, 60, 20, 220, 90])
        picture.paste(1, (32, 0, 64, 48))
        picture.save(tmp_path / name / "1.png", **({} if index is None else {"transparency": index}))
        with open_input(str(tmp_path / name), InputOptions(rate=24)) as video:
            assert video.info.alpha == (index is not None)


@pytest.mark.parametrize("modes", [("RGB", "RGBA"), ("RGBA", "RGB")])
def test_alpha_that_begins_late_is_announced_and_that_ends_is_opaque(tmp_path, modes):
    for number, mode in enumerate(modes):
        Image.new(mode, SIZE[::-1], (*COLOR, 90)[: len(mode)]).save(tmp_path / f"{number}.png")
    notices = []
    with open_input(str(tmp_path), InputOptions(rate=24), notify=notices.append) as video:
        frames = list(video)
    if modes[0] == "RGB":
        assert notices == [f"{tmp_path}: alpha begins at frame 1; the output has none as before"]
    else:
        assert notices == []
        assert [int(frame.beside.alpha[0, 0]) for frame in frames] == [90, 255]


def test_a_stream_without_alpha_keeps_its_own_decoder(tmp_path):
    clip = make_clip(tmp_path / "in.webm", codec="libvpx-vp9", frames=2)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert with_alpha(stream, 0) is stream

"""Interlaced video, by what its frames say: refused, deinterlaced, or taken as it is."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.video.frame_filter import FrameFilter, progressive_frames
from tests.clips import probe
from tests.runtime.nearest_session import upscale

HEIGHT, WIDTH = 64, 96


def frames_of(kinds, formats=None):
    """A bar that moves 4 pixels a field. Kinds: `t` and `b` have that field first, `p` is progressive."""
    for index, kind in enumerate(kinds):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        first, second = (0, 1) if kind != "b" else (1, 0)
        pixels[first::2, 8 * index : 8 * index + 20] = 255
        start = 8 * index + (0 if kind == "p" else 4)
        pixels[second::2, start : start + 20] = 255
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format=formats[index] if formats else "yuv420p")
        frame.pts, frame.time_base, frame.duration = 10 * index, Fraction(1, 250), 10
        mode = {"t": "tff", "b": "bff", "p": "prog"}[kind]
        yield FrameFilter("setparams", field_mode=mode).through(frame)


def comb(frame):
    """How much a row differs from its neighbours: large where two fields show two times."""
    luma = frame.reformat(format="gray").to_ndarray().astype(int)
    return np.abs(luma[1:-1] - (luma[:-2] + luma[2:]) / 2)[2:-2].mean()


@pytest.mark.parametrize("kinds", ["tt", "bbbbbb", "tttttt", "ptptpp", "tttppp"])
def test_as_many_frames_come_out_at_the_same_times_and_none_is_combed(kinds):
    done = list(progressive_frames("in.ts", frames_of(kinds), True))
    assert [frame.pts for frame in done] == [10 * index for index in range(len(kinds))]
    assert {frame.time_base for frame in done} == {Fraction(1, 250)}
    assert {frame.duration for frame in done} == {10}
    assert not any(frame.interlaced_frame for frame in done)
    assert max(comb(frame) for frame in done[1:-1] or done) < 4


def test_progressive_frames_pass_bit_for_bit():
    before = [frame.to_ndarray() for frame in frames_of("pptpp")]
    after = [frame.to_ndarray() for frame in progressive_frames("in.ts", frames_of("pptpp"), True)]
    for index in (0, 1, 3, 4):
        np.testing.assert_array_equal(after[index], before[index])


def test_a_format_that_changes_midway_is_deinterlaced_on_both_sides():
    formats = ["yuv420p", "yuv420p", "yuv422p", "yuv422p"]
    done = list(progressive_frames("in.ts", frames_of("tttt", formats), True))
    assert [frame.format.name for frame in done] == formats
    assert [frame.pts for frame in done] == [0, 10, 20, 30]


@pytest.mark.parametrize(("kinds", "index"), [("tt", 0), ("ppptp", 3)])
def test_an_interlaced_frame_is_refused_with_the_option_to_use(kinds, index):
    with pytest.raises(VideoError, match=rf"in.ts: frame {index} is interlaced; add --deinterlace"):
        list(progressive_frames("in.ts", frames_of(kinds), None))


def test_progressive_frames_are_not_refused():
    assert len(list(progressive_frames("in.ts", frames_of("pppp"), None))) == 4


def test_interlaced_frames_can_be_taken_for_progressive_ones():
    before = [frame.to_ndarray() for frame in frames_of("ttp")]
    done = list(progressive_frames("in.ts", frames_of("ttp"), False))
    assert not any(frame.interlaced_frame for frame in done)
    for frame, pixels in zip(done, before, strict=True):
        np.testing.assert_array_equal(frame.to_ndarray(), pixels)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_an_interlaced_file(tmp_path, codec):
    clip = tmp_path / "in.mkv"
    options = {"flags": "+ildct+ilme"}
    if codec == "libx264":
        options |= {"x264-params": "interlaced=1", "preset": "ultrafast", "qp": "8"}
    with av.open(str(clip), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, frame in enumerate(frames_of("tttttt")):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with pytest.raises(VideoError, match="frame 0 is interlaced; add --deinterlace"):
        upscale(clip, tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv").exists()
    upscale(clip, tmp_path / "out.mkv", input_options={"deinterlace": True})
    result = probe(tmp_path / "out.mkv")
    assert result.frames == 6
    assert result.times == pytest.approx([index / 25 for index in range(6)], abs=1e-3)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert max(comb(frame) for frame in list(container.decode(video=0))[1:-1]) < 6

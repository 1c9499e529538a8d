"""The VapourSynth function in VapourSynth: frames in order, late, left out, sought; properties; refusals."""

import os

import numpy as np
import pytest

from tests.newest.test_without_torch import MADE_BEFORE, RUN, SIZE

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth has wheels for Python 3.12 and newer; make test-newest"
)
if MADE_BEFORE not in os.environ:
    pytest.skip("make test-newest makes the bundle", allow_module_level=True)

from flashvsr_trt import open_session  # noqa: E402
from flashvsr_trt.vapoursynth import KEPT, LEAD_IN, upscale  # noqa: E402

OPTIONS = dict(zip((name.removeprefix("--") for name in RUN[::2]), RUN[1::2], strict=True))
HEIGHT, WIDTH = SIZE
FRAMES = 61


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    os.environ["FLASHVSR_CACHE"] = os.environ[MADE_BEFORE]
    yield
    del os.environ["FLASHVSR_CACHE"]


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(frames):
    with open_session(HEIGHT, WIDTH, **OPTIONS) as session:
        return np.concatenate([session.push(frames), session.flush()])


@pytest.fixture
def clip(frames):
    blank = vs.core.std.BlankClip(format=vs.RGB24, width=WIDTH, height=HEIGHT, length=FRAMES, fpsnum=25)

    def paint(n, f):
        painted = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(painted[plane]), frames[n][:, :, plane])
        painted.props["Take"] = n
        return painted

    return blank.std.ModifyFrame(blank, paint)


@pytest.fixture
def said(monkeypatch):
    lines = []
    handle = vs.core.add_log_handler(lambda kind, line: lines.append(line))
    yield lines
    vs.core.remove_log_handler(handle)


def array(frame):
    return np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=-1)


def sought(lines):
    return [line for line in lines if "restarts" in line]


@pytest.mark.parametrize("prefetch", [1, 9])
def test_frames_in_order_are_those_of_a_session_with_their_properties(clip, expected, said, prefetch):
    big = upscale(clip, **OPTIONS)
    assert (big.width, big.height, big.num_frames, big.fps) == (2 * WIDTH, 2 * HEIGHT, FRAMES, clip.fps)
    for number, frame in enumerate(big.frames(prefetch=prefetch)):
        np.testing.assert_array_equal(array(frame), expected[number])
        assert dict(frame.props) == dict(clip.get_frame(number).props)
    assert sought(said) == []


def test_frames_that_are_left_out_or_late_are_exact(clip, expected, said):
    big = upscale(clip, **OPTIONS)
    for number in (0, 3, 2, 30, 29, 60, 59, 60 - KEPT):
        np.testing.assert_array_equal(array(big.get_frame(number)), expected[number])
    assert sought(said) == []


def test_a_frame_out_of_order_restarts_the_stream_and_says_so(clip, frames, said):
    big = upscale(clip, **OPTIONS)
    made = array(big.get_frame(50))
    start = (50 - LEAD_IN) // 8 * 8
    assert [
        f"frame 50 is out of order: the stream restarts at frame {start}" in line for line in sought(said)
    ] == [True]
    with open_session(HEIGHT, WIDTH, **OPTIONS) as session:
        alone = np.concatenate([session.push(frames[start:]), session.flush()])
    np.testing.assert_array_equal(made, alone[50 - start])
    array(big.get_frame(0))
    assert "frame 0 is out of order: the stream restarts at frame 0" in sought(said)[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "YUV420P8"}, r"is YUV420P8 and must be RGB24.*matrix_in_s"),
        ({"format": "RGB48"}, r"is RGB48 and must be RGB24; use clip.resize.Bicubic\(format=vs.RGB24\)"),
        ({"format": "GRAY8"}, "is Gray8 and must be RGB24"),
    ],
)
def test_clips_of_other_formats_are_refused_with_what_converts_them(change, message):
    with pytest.raises(vs.Error, match=message):
        upscale(
            vs.core.std.BlankClip(**{name: getattr(vs, value) for name, value in change.items()}), **OPTIONS
        )


def test_clips_of_variable_format_or_size_are_refused():
    one = vs.core.std.BlankClip(format=vs.RGB24, length=2)
    for other in ({"width": 320}, {"format": vs.GRAY8}):
        mixed = vs.core.std.Splice([one, one.std.BlankClip(**other)], mismatch=True)
        with pytest.raises(vs.Error, match="variable"):
            upscale(mixed, **OPTIONS)

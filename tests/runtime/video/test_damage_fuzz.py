"""300 clips damaged at random, with kept seeds: no traceback, and exit 0 only when every frame is there."""

import numpy as np
import pytest

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.pipeline import upscale_video
from flashvsr_trt.runtime.request import OutputOptions
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.output import open_output
from tests.runtime.video.damaged_clips import FRAMES, KINDS, decodable, make_kind, mutate

SEEDS = range(300)

UNTOLD = {
    "ts": "a transport packet's header alone is gone, and no counter shows it",
    "ts_video": "a transport packet's header alone is gone, and no counter shows it",
    "mpg": "nothing in the file says how long it is",
}
"""Kinds of which whole packets can vanish without a trace: what is left decodes without fault."""


class Identity:
    """A session that gives back what it is given, at the end."""

    def __init__(self) -> None:
        self.inside: list[np.ndarray] = []

    def push(self, frames: np.ndarray) -> np.ndarray:
        self.inside += list(frames)
        return frames[:0]

    def flush(self) -> np.ndarray:
        return np.stack(self.inside)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {name: make_kind(folder, name).read_bytes() for name in KINDS}


def run(source, target):
    """The exit code of a run, and the frames it wrote."""
    try:
        with open_input(str(source), notify=lambda line: None) as video:
            size = (video.info.height, video.info.width)
            options = OutputOptions(encoder_options={"preset": "ultrafast"})
            with open_output(str(target), video, size, options, notify=lambda line: None) as output:
                report = upscale_video(video, Identity(), output)
    except VideoError as error:
        assert not target.exists()
        return error.exit_code, 0
    assert target.exists()
    return report.truncated.exit_code if report.truncated else 0, report.frames


@pytest.mark.slow
@pytest.mark.parametrize("block", range(0, len(SEEDS), 50))
def test_exit_0_only_with_every_frame(tmp_path, clips, block):
    names = list(KINDS)
    for seed in SEEDS[block : block + 50]:
        name = names[seed % len(names)]
        source = tmp_path / f"{seed}.{KINDS[name].extension}"
        source.write_bytes(mutate(clips[name], seed))
        code, frames = run(source, tmp_path / f"{seed}_out.mkv")
        there = decodable(source)
        assert code in (0, 1, 3), seed
        if code == 0:
            assert frames >= there, (seed, name)
            assert frames >= FRAMES or name in UNTOLD, (seed, name, frames)
        if code == 3:
            assert frames >= there, (seed, name)

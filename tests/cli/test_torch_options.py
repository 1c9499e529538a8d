"""The options of the torch backend and the group of the kernels on the command line."""

import pytest

from tests.cli.command import call
from tests.clips import make_clip

NANO = ("--preset", "nano", "--weights", "random", "--device", "cpu", "--backend", "torch")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--cuda-graphs",), "CUDA graphs need a GPU and the device is cpu; leave out --cuda-graphs"),
        (("--backend", "onnxruntime", "--compile"), "belong to --backend torch"),
        (("--attention", "fast"), "'fast' is not one of 'auto', 'reference'"),
    ],
)
def test_an_option_that_cannot_be_had_is_one_line(tmp_path, capfd, options, reason):
    clip = make_clip(tmp_path / "clip.mp4", frames=2, size=(64, 64))
    outcome = call(capfd, "run", clip, *NANO, *options)
    assert outcome.code == 2
    assert reason in outcome.err
    assert "Traceback" not in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_graphs_can_be_turned_off_anywhere(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=2, size=(64, 64))
    assert call(capfd, "run", clip, *NANO, "--no-cuda-graphs").code == 0


def test_kernels_build_names_the_architectures_there_are(tmp_path, capfd):
    outcome = call(capfd, "kernels", "build", "--arch", "sm_999", "-o", tmp_path / "kernels")
    assert outcome.code == 2
    assert "sm_90" in outcome.err
    assert not (tmp_path / "kernels").exists()

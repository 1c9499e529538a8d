"""Colour correction against the official one."""

import pytest
import torch

from flashvsr_trt.model.color import fix_color
from tests.golden import assert_close_to_max, load_case


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_the_official_correction_is_reproduced(method):
    case = load_case("color_64x64")
    frames, reference = (case[name][0].transpose(0, 1) for name in ("hq", "lq"))
    assert_close_to_max(fix_color(frames, reference, method), case[method][0].transpose(0, 1))


def test_no_correction_only_clamps():
    frames = torch.tensor([-2.0, 0.25, 2.0]).view(1, 3, 1, 1)
    assert fix_color(frames, frames, "none").flatten().tolist() == [-1.0, 0.25, 1.0]


def test_an_unknown_correction_is_refused():
    frames = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="sepia"):
        fix_color(frames, frames, "sepia")

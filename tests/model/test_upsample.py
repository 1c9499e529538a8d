"""Bicubic upscaling against the official vectors and against PIL itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.model.upsample import fit_to_target, upsample
from tests.golden import assert_close_to_max, load_case


@pytest.mark.parametrize(("name", "scale"), [("upsample_x2_66x70", 2), ("upsample_x4_34x41", 4)])
def test_the_torch_upsampler_gives_the_flashdreams_frame(name, scale):
    case = load_case(name)
    frame = case["frame"]
    geometry = Geometry(frame.shape[1], frame.shape[2], scale, fit="crop")
    upscaled = fit_to_target(upsample(frame, scale, "torch"), geometry.crop_corner, geometry.target)
    assert_close_to_max(upscaled, case["upsampled"])


def test_the_pil_upsampler_gives_the_official_frame():
    case = load_case("e2e_official")
    upscaled = upsample(case["lr"][:1], 2, "pil")
    as_bytes = ((upscaled[0] + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(as_bytes, case["upsampled_u8.0"])


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.sampled_from([2, 4]),
    kind=st.sampled_from(["noise", "edges"]),
    seed=st.integers(0, 2**31),
)
def test_the_pil_upsampler_equals_pil_bit_for_bit(height, width, scale, kind, seed):
    generator = np.random.default_rng(seed)
    frame = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "edges":
        frame = np.where(frame > 127, 255, 0).astype(np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((width * scale, height * scale), Image.BICUBIC))
    upscaled = upsample(torch.from_numpy(frame)[None], scale, "pil")[0]
    actual = ((upscaled + 1) * 127.5).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("size", [(64, 64), (65, 130), (1, 1), (100, 37)])
def test_padding_replicates_the_border_up_to_the_target(size):
    geometry = Geometry(*size, scale=2)
    upscaled = torch.rand(2, 3, *geometry.upscaled)
    fitted = fit_to_target(upscaled, geometry.crop_corner, geometry.target)
    height, width = geometry.upscaled
    assert tuple(fitted.shape[2:]) == geometry.target
    assert torch.equal(fitted[:, :, :height, :width], upscaled)
    assert torch.equal(fitted[:, :, -1, :width], upscaled[:, :, -1])


def test_an_unknown_upsampler_is_refused():
    with pytest.raises(ValueError, match="lanczos"):
        upsample(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), 2, "lanczos")

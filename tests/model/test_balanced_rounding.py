"""Weights rounded with their sums kept, and what that does to the frames of a decoder in bfloat16."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flashvsr_trt.config.presets import NANO
from flashvsr_trt.model.balanced_rounding import round_balanced
from flashvsr_trt.model.color import adain
from flashvsr_trt.model.communicator import ONE_PROCESS
from flashvsr_trt.model.decoder import Decoder
from flashvsr_trt.model.fused_decoder import FusedDecoder
from flashvsr_trt.model.weights.random import random_weights

NARROW = [torch.bfloat16, torch.float16]


def neighbours(weight, dtype):
    """The largest value of `dtype` that is not above each weight, and the smallest that is not below."""
    nearest = weight.to(dtype)
    bits = nearest.view(torch.int16)
    around = torch.stack([nearest, (bits + 1).view(dtype), (bits - 1).view(dtype)]).float()
    below = torch.where(around <= weight, around, -torch.inf).amax(0)
    above = torch.where(around >= weight, around, torch.inf).amin(0)
    return below, above


@pytest.mark.parametrize("dtype", NARROW)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_weight_goes_to_a_neighbour_and_sums_are_no_worse_than_of_the_nearest(data, dtype):
    inputs = data.draw(st.integers(1, 300))
    dim = data.draw(st.sampled_from([0, 1]))
    seed, scale = data.draw(st.integers(0, 1000)), data.draw(st.sampled_from([1e-3, 0.05, 1.0]))
    shape = (inputs, 3, 3, 3) if dim == 0 else (3, inputs, 3, 3)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    rounded = round_balanced(weight, dtype, dim)
    assert rounded.dtype == dtype
    below, above = neighbours(weight, dtype)
    assert ((rounded.float() == below) | (rounded.float() == above)).all()
    excess, plain = ((x.double() - weight).sum(dim).abs() for x in (rounded, weight.to(dtype)))
    assert (excess <= plain + 1e-6 * scale).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_sums_of_many_inputs_are_kept_to_a_unit_in_the_last_place(dtype):
    weight = torch.randn(4, 512, 3, 3, generator=torch.Generator().manual_seed(0)) / 64
    rounded = round_balanced(weight, dtype, dim=1)
    unit = torch.finfo(dtype).eps * weight.abs().amax()
    assert (rounded.double() - weight).sum(1).abs().max() < unit
    # The price: few leave the nearest, so the errors themselves hardly grow.
    moved = rounded != weight.to(dtype)
    assert 0 < moved.float().mean() < 0.05
    assert (rounded - weight).square().sum() < 1.02 * (weight.to(dtype) - weight).square().sum()


@pytest.mark.parametrize("dtype", NARROW)
def test_what_the_dtype_holds_stays(dtype):
    weight = torch.tensor([0.0, -0.0, 1.0, -0.5, 3.0, -(2.0**-10)]).view(1, -1, 1, 1)
    assert torch.equal(round_balanced(weight, dtype, dim=1).float(), weight)


def test_float32_weights_stay():
    decoder = published()
    before = [module.weight.clone() for module in decoder.modules() if isinstance(module, nn.Conv2d)]
    after = FusedDecoder(decoder, torch.float32).state_dict()
    assert all(torch.equal(round_balanced(x, torch.float32, dim=1), x) for x in before)
    assert {x.dtype for x in after.values()} == {torch.float32}
    first = torch.cat([after["groups.0.0.present.weight"], after["groups.0.0.past"]], dim=1)
    assert torch.equal(first, before[2])


def test_folded_kernels_are_rounded_once():
    wanted = {key: neighbours(x, torch.bfloat16) for key, x in fused(torch.float32).state_dict().items()}
    found = fused(torch.bfloat16).state_dict()
    assert any(key.startswith("grows.") for key in found)
    for key, (below, above) in wanted.items():
        assert found[key].dtype == torch.bfloat16
        assert ((found[key].float() == below) | (found[key].float() == above)).all(), key


@pytest.mark.parametrize("seed", range(2))
def test_frames_are_nearer_than_with_weights_rounded_before_and_after_folding(seed):
    """Activations are float32 here: nothing but the weights differs."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(2, 16, 8, 8, generator=generator)
    coarse = torch.rand(8, 3, 8, 8, generator=generator) * 2 - 1
    condition = F.interpolate(coarse, scale_factor=8, mode="bilinear")
    sizes = [size for size in (8, 16, 32) for _ in range(3)]
    channels = [count for count in NANO.decoder.channels[:3] for _ in range(3)]
    memory = [torch.zeros(1, c, size, size) for c, size in zip(channels, sizes, strict=True)]

    def decode(decoder: FusedDecoder) -> torch.Tensor:
        return adain(decoder.float()(latent, condition, memory)[0], condition, ONE_PROCESS)

    wanted = decode(fused(torch.float32, seed))
    twice = FusedDecoder(published(seed).bfloat16(), torch.bfloat16)
    once = fused(torch.bfloat16, seed)
    worse, error = ((decode(decoder) - wanted).square().mean() for decoder in (twice, once))
    assert error < 0.7 * worse


def published(seed: int = 0) -> Decoder:
    decoder = Decoder(NANO)
    decoder.load_state_dict(random_weights(NANO, seed)["decoder"])
    return decoder.eval().requires_grad_(False)


def fused(dtype: torch.dtype, seed: int = 0) -> FusedDecoder:
    return FusedDecoder(published(seed), dtype)

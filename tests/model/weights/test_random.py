"""Seeded weights are reproducible key by key, and let every stage give finite, moderate values."""

from dataclasses import replace

import pytest
import torch

from flashvsr_trt.config.presets import NANO, WINDOW_TOKENS
from flashvsr_trt.model.attention import DenseAttention, LayerCache, StepCache
from flashvsr_trt.model.fused_projector import unshuffle
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.running_dit import Step
from flashvsr_trt.model.state_shapes import FOLDED, shapes_of, state_shapes
from flashvsr_trt.model.step_tokens import AllTokens
from flashvsr_trt.model.weights import random as module
from flashvsr_trt.model.weights.load import RandomSeed, load_weights
from flashvsr_trt.model.weights.random import random_weights
from tests.model.weights_files import NARROW, TINY
from training.published import PublishedDecoder


@pytest.mark.parametrize("network", [TINY, NANO], ids=["tiny", "nano"])
def test_they_have_the_shapes_of_the_network(network):
    found = random_weights(network, 0)
    assert {part: shapes_of(state) for part, state in found.items()} == state_shapes(network)


def test_a_seed_gives_the_same_values_and_another_seed_others():
    first, again, other = (random_weights(TINY, seed)["dit"] for seed in (4, 4, 5))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_a_value_depends_on_its_key_and_not_on_the_rest_of_the_network():
    wide, narrow = (random_weights(network, 4) for network in (TINY, NARROW))
    assert all(torch.equal(wide["decoder"][key], narrow["decoder"][key]) for key in wide["decoder"])


def test_a_narrow_dtype_is_the_float32_value_rounded_but_for_what_is_folded():
    wide, narrow = random_weights(TINY, 4), random_weights(TINY, 4, torch.bfloat16)
    for part, state in wide.items():
        stored = torch.float32 if part in FOLDED else torch.bfloat16
        assert all(torch.equal(narrow[part][key], x.to(stored)) for key, x in state.items())
        assert all(narrow[part][key].dtype == stored for key in state)


def test_tensors_of_several_chunks_repeat_no_values(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 256)
    values = random_weights(TINY, 0)["dit"]["text_embedding.2.weight"].flatten()
    assert len(values.unique()) > 0.99 * len(values)
    assert values.std().item() == pytest.approx(1 / 8, rel=0.1)


def test_fingerprints_differ_by_seed_and_by_network():
    sources = [(0, TINY), (1, TINY), (0, NARROW)]
    found = {load_weights(RandomSeed(seed), network).fingerprint for seed, network in sources}
    assert len(found) == 3


@pytest.mark.parametrize("seed", range(3))
def test_decoded_frames_stay_in_range(seed):
    """In [-1, 2] before the map to pixels, with contrast, over two calls with carried memory."""
    decoder = PublishedDecoder(NANO)
    decoder.load_state_dict(random_weights(NANO, seed)["decoder"])
    memory = [
        torch.zeros(1, channels, 8 * scale, 8 * scale)
        for channels, scale in zip(NANO.decoder.channels[:3], (1, 2, 4), strict=True)
        for _ in range(3)
    ]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(2):
            latent = torch.randn(2, 16, 8, 8, generator=generator) * 1.5
            condition = torch.rand(8, 3, 64, 64, generator=generator) * 2 - 1
            frames, memory = decoder(latent, condition, memory)
    assert frames.min() > -1
    assert frames.max() < 2
    assert frames.std() > 0.02


@pytest.mark.parametrize("seed", range(2))
def test_projected_tokens_are_of_order_one(seed):
    network = build_random(NANO, seed)
    generator = torch.Generator().manual_seed(seed)
    video = (torch.rand(8, 3, 64, 64, generator=generator) * 2 - 1).bfloat16()
    tails = [torch.zeros(2, channels, 4, 4).bfloat16() for channels in (768, NANO.projector.hidden[0])]
    tokens, *_ = network.projector(unshuffle(video), torch.tensor(True), *tails)
    assert 0.1 < tokens.float().std() < 3


@pytest.mark.parametrize("layers", [4, 30])
def test_velocities_are_of_order_one_however_deep_the_network(layers):
    """bf16, as deep as the published one; each block's input is looked at, not the last alone."""
    config = replace(NANO, dit=replace(NANO.dit, layers=layers))
    network = build_random(config, seed=0)
    inputs = []
    for block in network.dit.blocks:
        block.register_forward_pre_hook(lambda block, arguments: inputs.append(arguments[0].float().std()))
    heads, head_dim = NANO.dit.heads, NANO.dit.head_dim
    empty = torch.zeros(0, WINDOW_TOKENS, heads, head_dim).bfloat16()
    ring = LayerCache(empty, empty, torch.zeros(0, 1, heads, head_dim))
    caches = [StepCache(new, ring, new) for new in (ring.empty(1) for _ in range(layers))]
    rope = torch.ones(WINDOW_TOKENS, head_dim // 2), torch.zeros(WINDOW_TOKENS, head_dim // 2)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 16, 16, 16, generator=generator)
    tokens = torch.randn(WINDOW_TOKENS, NANO.dit.dim, generator=generator).bfloat16()
    no_slots = torch.zeros(0, dtype=torch.bool)
    step = Step(rope, no_slots, DenseAttention(), AllTokens((8, 8)))
    velocity = network.dit(noise, tokens, caches, step)
    assert len(inputs) == layers
    assert all(0.5 < deviation < 10 for deviation in inputs)
    assert 0.2 < velocity.float().std() < 4


def build_random(config, seed):
    return build_network(config, load_weights(RandomSeed(seed), config), torch.device("cpu"), torch.bfloat16)

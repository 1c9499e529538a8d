"""Decoders whose activations are large: the same frames in every dtype, and what no scale can mend."""

from math import log2

import numpy as np
import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.model.decoder import MemBlock
from flashvsr_trt.model.decoder_range import LARGEST_KEPT, LARGEST_MADE, activations, in_range, scaled_layers
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from training.published import PublishedDecoder

NANO = find_preset("nano").network


def decoder_of(weights: str | None) -> PublishedDecoder:
    """In float32, as it is before it is rounded."""
    loaded = load_weights(resolve_weights(weights, NANO), NANO, torch.float32)
    decoder = PublishedDecoder(NANO)
    decoder.load_state_dict(dict(loaded.parts["decoder"]))
    return decoder.eval().requires_grad_(False)


def frames_in(dtype: torch.dtype) -> np.ndarray:
    """A moving gradient by nano with its own weights."""
    stream = StreamConfig(find_preset("nano"), Geometry(64, 64, 2), find_schedule("low-latency"))
    loaded = load_weights(resolve_weights(None, NANO), NANO, dtype)
    network = build_network(NANO, loaded, torch.device("cpu"), dtype)
    row, column = np.mgrid[:64, :64]
    frames = [np.stack([column * 2 + t, row * 3, row + column + 2 * t], -1) for t in range(13)]
    session = Session(TorchExecutor(network, stream))
    return np.concatenate([session.push(np.stack(frames).clip(0, 255).astype(np.uint8)), session.flush()])


def test_nanos_own_weights_give_pictures_in_float16():
    expected, made = frames_in(torch.float32), frames_in(torch.float16)
    assert expected.std() > 20
    assert psnr(expected, made) > 45


def test_a_scaled_decoder_makes_the_same_digits():
    plain, scaled = decoder_of(None), decoder_of(None)
    assert activations(plain)[1] > torch.finfo(torch.float16).max
    in_range(scaled, torch.float16)
    entered, largest = activations(scaled)
    assert largest < LARGEST_KEPT
    assert max(entered) <= LARGEST_MADE
    random = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 16, 8, 8, generator=random)
    condition = torch.rand(8, 3, 64, 64, generator=random) * 2 - 1
    blocks = [layer for layer in plain.decoder if isinstance(layer, MemBlock)]
    memory = [
        torch.zeros(1, block.conv[0].in_channels // 2, 8 << place // 3, 8 << place // 3)
        for place, block in enumerate(blocks)
    ]
    expected, _ = plain(latent, condition, memory)
    made, _ = scaled(latent, condition, memory)
    factor = float(expected.abs().max() / made.abs().max())
    assert log2(factor) == int(log2(factor)) > 0
    torch.testing.assert_close(made * factor, expected, rtol=0, atol=0)


def test_ordinary_weights_stay_as_they_are():
    decoder = decoder_of("random:3")
    before = [layer.weight.clone() for layer in scaled_layers(decoder)]
    in_range(decoder, torch.float16)
    assert all(map(torch.equal, before, (layer.weight for layer in scaled_layers(decoder))))


def test_loaded_weights_are_not_changed():
    loaded = load_weights(resolve_weights(None, NANO), NANO, torch.float32)
    before = {name: tensor.clone() for name, tensor in loaded.parts["decoder"].items()}
    build_network(NANO, loaded, torch.device("cpu"), torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.parts["decoder"].items())


@pytest.mark.parametrize(("dtype", "fits"), [(torch.float16, False), (torch.bfloat16, True)])
def test_what_grows_inside_a_block_is_refused_in_float16(dtype, fits):
    decoder = decoder_of("random:3")
    next(layer for layer in decoder.decoder if isinstance(layer, MemBlock)).conv[2].weight.mul_(1e7)
    if fits:
        in_range(decoder, dtype)
        return
    with pytest.raises(
        WeightsError, match=r"activations reach .*, and float16 ends at 6.55e\+04.*use bfloat16"
    ):
        in_range(decoder, dtype)

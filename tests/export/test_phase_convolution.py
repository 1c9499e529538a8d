"""Plain convolutions for transposed ones: the same numbers, and the network that was given stays as it is."""

import pytest
import torch

from flashvsr_trt.export.phase_convolution import PhaseGrow, with_phase_convolutions
from flashvsr_trt.model.decoder import TGrow
from flashvsr_trt.model.fused_decoder import Grow
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.weights import load_weights, resolve_weights
from flashvsr_trt.presets import find_preset


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (16, 24)])
def test_phases_equal_the_transposed_convolution(stride, size):
    torch.manual_seed(0)
    grow = Grow(TGrow(6, stride), torch.nn.Conv2d(6, 5, 3, padding=1, bias=False)).requires_grad_(False)
    x = torch.randn(3, 6, *size)
    torch.testing.assert_close(PhaseGrow(grow)(x), grow(x), atol=1e-6, rtol=1e-5)


def test_the_network_itself_is_not_changed():
    config = find_preset("nano").network
    weights = load_weights(resolve_weights("random", config), config, torch.float32)
    network = build_network(config, weights, torch.device("cpu"), torch.float32)
    exported = with_phase_convolutions(network)
    assert all(isinstance(grow, Grow) for grow in network.decoder.grows)
    assert all(isinstance(grow, PhaseGrow) for grow in exported.decoder.grows)
    assert exported.decoder.entry is network.decoder.entry

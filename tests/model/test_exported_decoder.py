"""The exported decoder's pieces against those that specify them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flashvsr_trt.config.presets import find_preset
from flashvsr_trt.model.decoder import TGrow
from flashvsr_trt.model.exported_decoder import ExportedDecoder, PhasedGrow, TransposedGrow
from flashvsr_trt.model.folded_decoder import Grow
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([PhasedGrow, TransposedGrow]),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stride=st.sampled_from([1, 2, 3]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_frame_grows_into_the_same_frames(kind, channels, stride, size, seed):
    torch.manual_seed(seed)
    read, made = channels
    grow = Grow(TGrow(read, stride), nn.Conv2d(read, made, 3, padding=1, bias=False))
    x = torch.randn(1, read, *size)
    with torch.no_grad():
        frames = kind(grow)(x)
        expected = grow(x)
    assert len(frames) == stride
    torch.testing.assert_close(torch.cat(frames), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.float32, TransposedGrow),
        (torch.float16, TransposedGrow),
        (torch.bfloat16, PhasedGrow),
    ],
)
def test_bfloat16_has_no_transposed_convolutions(dtype, kind):
    config = find_preset("nano").network
    weights = load_weights(resolve_weights("random:1", config), config, dtype)
    network = build_network(config, weights, torch.device("cpu"), dtype)
    decoder = ExportedDecoder(network.decoder)
    assert {type(grow) for grow in decoder.grows} == {kind}
    assert all(tensor.is_contiguous() for tensor in decoder.buffers())

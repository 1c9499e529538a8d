"""The exported decoder's pieces against those that specify them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flashvsr_trt.config.presets import find_preset
from flashvsr_trt.model.communicator import ONE_PROCESS
from flashvsr_trt.model.decoder import Decoder, TGrow
from flashvsr_trt.model.exported_decoder import ExportedGrow, exported_decoder
from flashvsr_trt.model.fused_decoder import FusedDecoder, Grow
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stride=st.sampled_from([1, 2, 3]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    relu=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_frame_grows_into_the_same_frames(dtype, channels, stride, size, relu, seed):
    torch.manual_seed(seed)
    read, made = channels
    conv = nn.Conv2d(read, made, 3, padding=1, bias=False)
    grow = Grow(TGrow(read, stride), conv, dtype, relu)
    # Rounded weights, and exact sums: the form alone is compared.
    exported, grow = ExportedGrow(grow).float(), grow.float()
    x = torch.randn(1, read, *size)
    with torch.no_grad():
        frames = exported(x, ONE_PROCESS)
        (expected,) = grow(x, ONE_PROCESS)
    assert exported.phased == (dtype == torch.bfloat16)
    assert len(frames) == stride
    torch.testing.assert_close(torch.cat(frames), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bfloat16_has_no_transposed_convolutions(dtype):
    config = find_preset("nano").network
    weights = load_weights(resolve_weights("random:1", config), config, dtype)
    network = build_network(config, weights, torch.device("cpu"), dtype)
    decoder = exported_decoder(network.decoder)
    assert {grow.phased for grow in decoder.grows} == {dtype == torch.bfloat16}
    assert all(tensor.is_contiguous() for tensor in decoder.grows.buffers())
    assert all(isinstance(grow, Grow) for grow in network.decoder.grows)


def test_all_other_weights_are_shared():
    decoder = FusedDecoder(Decoder(find_preset("nano").network), torch.bfloat16)
    own = {name: x.data_ptr() for name, x in decoder.named_buffers()}
    shared = {name: x.data_ptr() for name, x in exported_decoder(decoder).named_buffers()}
    assert {name for name, address in shared.items() if own.get(name) != address} == {
        f"grows.{at}.weight_{frame}" for at, stride in enumerate((1, 2, 2)) for frame in range(stride)
    }

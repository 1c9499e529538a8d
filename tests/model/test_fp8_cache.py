"""K/V rings in FP8: what is read is what was written, as near as e4m3 with a scale a window and head is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_trt.config.presets import WINDOW_TOKENS
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.fp8_cache import keep_units, widen_slots, widened_layers, zero_fp8_cache

HEADS, HEAD_DIM = 2, 4
CPU = torch.device("cpu")


def layer_of(dtype: torch.dtype, slots: int = 3, windows: int = 2) -> LayerCache:
    tokens = slots, windows * WINDOW_TOKENS, HEADS, HEAD_DIM
    keys, values = torch.zeros(tokens, dtype=dtype), torch.zeros(tokens, dtype=dtype)
    return LayerCache(keys, values, torch.zeros(slots, windows, HEADS, HEAD_DIM))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(exponent=st.integers(-12, 12), seed=st.integers(0, 99))
def test_a_number_is_kept_to_a_sixteenth_or_to_the_least_step_of_its_window(dtype, exponent, seed):
    layer = layer_of(dtype)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (layer.keys, layer.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 2.0**exponent)
    kept = zero_fp8_cache(layer, CPU)
    keep_units(layer.part(slice(1, 3)), kept.part(slice(1, 3)))
    read = widen_slots(kept, (1, 2), layer_of(dtype))
    for made, given_, scales in zip(
        (read.keys, read.values),
        (layer.keys, layer.values),
        (kept.key_scales, kept.value_scales),
        strict=True,
    ):
        step = scales.repeat_interleave(WINDOW_TOKENS, dim=1)[..., None] * 2.0**-10
        error = (made - given_).abs().float()
        assert bool((error <= given_.abs().float() / 16 + step)[1:].all())
        assert not made[0].any()


def test_one_large_window_does_not_coarsen_another_or_another_head():
    layer = layer_of(torch.float32)
    layer.keys[:] = 1e-3
    layer.keys[0, :WINDOW_TOKENS, 0] = 300.0
    kept = zero_fp8_cache(layer, CPU)
    keep_units(layer, kept)
    read = widen_slots(kept, (0, 1, 2), layer_of(torch.float32)).keys
    torch.testing.assert_close(read, layer.keys, rtol=1 / 16, atol=0)


def test_layers_run_in_one_place_and_each_keeps_what_it_wrote():
    rings = [zero_fp8_cache(layer_of(torch.float32), CPU) for _ in range(3)]
    place = layer_of(torch.float32)
    for step, seen in enumerate([(), (0,), (0, 1)]):
        for number, layer in enumerate(widened_layers(rings, place, seen, slice(step, step + 1))):
            for slot in seen:
                assert layer.keys[slot].unique().tolist() == [3 * number + slot + 1]
                assert layer.key_means[slot].unique().tolist() == [number]
            layer.keys[step] = 3 * number + step + 1
            layer.key_means[step] = number

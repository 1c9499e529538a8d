"""Attention that reads a ring in e4m3 with scales, against attention over the ring widened in float64."""

import pytest
import torch

from flashvsr_trt.kernels.attention_launch import attention_setting
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.block_sparse_attention_scaled import (
    OPERATOR,
    WIDENED,
    block_sparse_attention_scaled,
    block_sparse_attention_scaled_reference,
    reads_scaled_ring,
)
from flashvsr_trt.kernels.fp8 import E4M3
from flashvsr_trt.kernels.scaled_windows import widen_windows_reference
from flashvsr_trt.kernels.select_blocks import compact_mask
from flashvsr_trt.kernels.tuning import ARCHITECTURES, setting_for
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.fp8_cache import keep_units, zero_fp8_cache
from tests.kernels.conftest import run_on_gpu

BLOCK, HEADS, SLOTS, WINDOWS = 128, 2, 4, 2
# Against float64; results of 16 bits are themselves rounded, and so are probabilities.
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2**-11, "atol": 2e-3},
    torch.bfloat16: {"rtol": 2**-8, "atol": 4e-3},
}
NAMES = ("q", "k", "v", "ring_k", "ring_v", "key_scales", "value_scales", "own_slot", "index", "count")


def launch(*arguments):
    return block_sparse_attention_scaled(*arguments, attention_setting(OPERATOR, arguments[0]))


def problem(dtype=torch.float32, head_dim=32, units=1, slot=1, mask=None, spread=0.0):
    """Arguments of the operator: a ring as `--kv-cache fp8` keeps it, but in the step's own slots.

    `spread` is the deviation of log2 of the windows' sizes.
    """
    generator = torch.Generator().manual_seed(0)

    def tokens(*shape):
        return torch.randn(*shape, HEADS, head_dim, generator=generator)

    q, k, v = (tokens(units * WINDOWS * BLOCK).to(dtype) for _ in range(3))
    ring = []
    for _ in range(2):
        size = torch.exp2(spread * torch.randn(SLOTS, WINDOWS, 1, HEADS, 1, generator=generator))
        ring.append((tokens(SLOTS, WINDOWS, BLOCK) * size).flatten(1, 2).to(dtype))
    layer = LayerCache(*ring, torch.zeros(SLOTS, WINDOWS, HEADS, head_dim))
    kept = zero_fp8_cache(layer, torch.device("cpu"))
    keep_units(layer, kept)
    if mask is None:
        mask = torch.rand(HEADS, units * WINDOWS, SLOTS * WINDOWS, generator=generator) < 0.6
    scales = kept.key_scales, kept.value_scales
    return [q, k, v, kept.keys, kept.values, *scales, slot, *compact_mask(mask)]


def in_float64(arguments):
    """What attention over a widened ring gives."""
    q, k, v, ring_k, ring_v, key_scales, value_scales, slot, index, count = arguments
    rings = []
    for own, kept, scales in ((k, ring_k, key_scales), (v, ring_v, value_scales)):
        wide = torch.empty(kept.shape, dtype=torch.float64).flatten(0, 1)
        widen_windows_reference(kept.flatten(0, 1), scales.flatten(0, 1), wide)
        wide[slot * WINDOWS * BLOCK :][: len(own)] = own.double()
        rings.append(wide.view(kept.shape))
    none = q[:0].double()
    return block_sparse_attention_reference(q.double(), none, none, *rings, index, count)


def assert_near(got, arguments, **tolerance):
    torch.testing.assert_close(
        got.double(), in_float64(arguments), **(tolerance or TOLERANCE[arguments[0].dtype])
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_reference_is_near_float64(dtype):
    given = problem(dtype, units=2)
    assert_near(block_sparse_attention_scaled_reference(*given), given)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "units", "slot"),
    [(torch.float32, 32, 1, 0), (torch.float32, 32, 2, 1), (torch.bfloat16, 128, 1, 3)],
)
def test_random_blocks(run_kernel, dtype, head_dim, units, slot):
    given = problem(dtype, head_dim, units, slot)
    assert_near(run_kernel(launch, *given), given)


def test_hard_rows(run_kernel):
    own, mask = slice(WINDOWS, 2 * WINDOWS), torch.zeros(HEADS, WINDOWS, SLOTS * WINDOWS, dtype=torch.bool)
    nothing, everything, the_last, own_alone = mask.flatten(0, 1)
    everything[:], the_last[-1], own_alone[own] = True, True, True
    given = problem(mask=mask)
    got = run_kernel(launch, *given)
    assert_near(got, given)
    assert not nothing.any()
    assert not got[:BLOCK, 0].any()
    # Where the step's own slots are not listed, what is in them does not matter.
    mask[:] = True
    mask[..., own] = False
    given = problem(mask=mask)
    assert_near(run_kernel(launch, *given), given)


def test_windows_of_very_different_sizes(run_kernel):
    """Neither keys' nor values' scales of one window leak into another's."""
    given = problem(spread=3.0)
    values = given[6]
    assert values.max() > 2**8 * values.min()
    size = float(in_float64(given).abs().max())
    assert_near(run_kernel(launch, *given), given, rtol=1e-5, atol=1e-6 * size)


def numbers(dtype: torch.dtype):
    """One key of a window has all the weight, so that its value comes out: each number of e4m3 once."""
    bits = torch.arange(256, dtype=torch.uint8)
    # The two NaN.
    bits[bits % 128 == 127] = 0
    q, keys = torch.zeros(BLOCK, HEADS, 128, dtype=dtype), torch.zeros(1, BLOCK, HEADS, 128)
    q[..., 0], keys[:, 0, :, 0] = 448.0, 448.0
    values = torch.zeros(keys.shape, dtype=torch.uint8)
    values[0, 0] = bits.view(HEADS, 128)
    scale, index = torch.full((1, 1, HEADS), 2.0**-6), torch.zeros(HEADS, 1, 1, dtype=torch.int32)
    ring = keys.to(E4M3), values.view(E4M3), scale, scale
    return (q, q[:0], q[:0], *ring, 0, index, index[..., 0] + 1), bits.view(E4M3).float() * scale[0, 0, 0]


def test_every_number_of_e4m3_is_read_exactly(run_kernel):
    given, wanted = numbers(torch.float32)
    assert torch.equal(run_kernel(launch, *given)[0].flatten(), wanted)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("q", lambda x: x[..., :16], "head_dim 16 has no attention kernel"),
        ("q", lambda x: x[:100], r"q must be contiguous torch.float32 \(0, 2, 32\)"),
        ("v", lambda x: x[:BLOCK], r"v must be contiguous .* not torch.float32 \(128, 2, 32\)"),
        ("ring_k", lambda x: x.float(), "ring_k must be contiguous torch.float8_e4m3fn"),
        ("value_scales", lambda x: x[..., :1], r"value_scales must be contiguous torch.float32 \(4, 2, 2\)"),
        ("own_slot", lambda x: 4, "256 own tokens from slot 4 on are beyond 4 of 256"),
        ("index", lambda x: x.long(), "index must be contiguous torch.int32"),
    ],
)
def test_arguments_that_the_kernel_cannot_read_are_refused(name, damage, message):
    pytest.importorskip("triton", reason="launching kernels needs Triton (extra 'kernels')")
    given = dict(zip(NAMES, problem(), strict=True))
    given[name] = damage(given[name])
    with pytest.raises(ValueError, match=message):
        launch(*given.values())


@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gpus_with_fast_tensor_cores_widen_such_a_ring(monkeypatch, architecture, head_dim):
    monkeypatch.setattr(
        "flashvsr_trt.kernels.block_sparse_attention_scaled.architecture_of", lambda device: architecture
    )
    read = reads_scaled_ring(torch.device("cuda"), head_dim)
    assert read == (architecture not in ("sm_80", "sm_90", "sm_100"))
    assert read == (setting_for(OPERATOR, architecture, head_dim).implementation != WIDENED)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_the_kernel_of_this_gpu_is_near_float64(dtype, head_dim, spread):
    given = problem(dtype, head_dim, units=2, slot=1, spread=spread)
    largest, tolerance = max(1.0, float(in_float64(given).abs().max())), TOLERANCE[dtype]
    got = run_on_gpu(launch, *given)
    assert_near(got, given, rtol=tolerance["rtol"], atol=tolerance["atol"] * largest)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_this_gpu_reads_every_number_of_e4m3(dtype):
    given, wanted = numbers(dtype)
    got = run_on_gpu(launch, *given)[0].flatten().float()
    # The weight of one is a quotient of two that are rounded; the next number of e4m3 is a sixteenth away.
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=0)

"""Attention over an e4m3 ring, its kernels against float64 of the same operands."""

import math

import pytest
import torch

from flashvsr_trt.kernels.block_sparse_attention_fp8 import (
    BLOCK,
    AttentionScales,
    block_sparse_attention_fp8,
    block_sparse_attention_fp8_reference,
    store_values,
    store_values_reference,
    value_order,
)
from flashvsr_trt.kernels.fp8 import E4M3, LARGEST, to_e4m3
from flashvsr_trt.kernels.select_blocks import expand_mask
from flashvsr_trt.kernels.tuning import Setting, setting_for
from flashvsr_trt.model.fp8_linear import attention_scales

SCALES = AttentionScales(0.02, 0.03, 0.01, torch.float32)
PORTABLE = Setting(num_warps=4, num_stages=1, constants={"KEYS": 64})
VALUES = Setting(num_warps=4)

PROBABILITY_ERROR = 2.0**-4
"""Of a probability in e4m3, of which attention takes a mean."""


def problem(head_dim: int, windows: int = 2, slots: int = 2, heads: int = 2, device: str = "cpu"):
    """q, ring, means and lists, and the same q, keys and values in float64; the last row lists nothing."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, heads, head_dim, generator=generator)

    q, ring_k = (
        to_e4m3(random(*shape) / scale)
        for shape, scale in (((windows * BLOCK,), 0.02), ((slots, windows * BLOCK), 0.03))
    )
    means = random()
    v = random(slots * windows * BLOCK) + means
    ring_v = torch.empty(slots, windows * BLOCK, heads, head_dim, dtype=E4M3)
    store_values_reference(v, means, SCALES.v, ring_v)
    listed = slots * windows
    index = torch.stack([torch.randperm(listed, generator=generator) for _ in range(heads * windows)])
    index = index.view(heads, windows, listed).int()
    count = torch.randint(1, listed + 1, (heads, windows), generator=generator).int()
    count[:, -1] = 0
    wide = (
        q.double() * SCALES.q,
        ring_k.double().flatten(0, 1) * SCALES.k,
        to_e4m3((v - means) / SCALES.v).double() * SCALES.v + means,
    )
    return [x.to(device) for x in (q, ring_k, ring_v, means, index, count)], wide


def exact(wide, index, count):
    q, k, v = (x.transpose(0, 1) for x in wide)
    mask = expand_mask(index, count).repeat_interleave(BLOCK, dim=1).repeat_interleave(BLOCK, dim=2)
    scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    return (scores.softmax(dim=-1).nan_to_num() @ v).transpose(0, 1)


def assert_near(got, wide, index, count, largest_error=PROBABILITY_ERROR / 2):
    wanted = exact(wide, index, count)
    assert got.shape == wanted.shape
    error = (got.double() - wanted).norm() / wanted.norm()
    assert error < largest_error
    assert got[-BLOCK:].eq(0).all()


def launch_values(v, means, scale):
    out = v.new_empty(v.shape)
    store_values(v, means, scale, out, VALUES)
    return out


def test_the_order_of_values_has_every_key_once():
    order = value_order(torch.arange(BLOCK))
    assert order.sort().values.equal(torch.arange(BLOCK))
    assert order[:16].tolist() == [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]


@pytest.mark.parametrize("head_dim", [32, 128])
def test_values_are_stored_as_the_reference_stores_them(run_kernel, head_dim):
    v = torch.randn(2 * BLOCK, 3, head_dim, generator=torch.Generator().manual_seed(0))
    out, means = torch.empty(v.shape, dtype=E4M3), torch.arange(3 * head_dim).view(3, head_dim) / 8
    store_values_reference(v, means, 0.5, out)
    assert to_e4m3(run_kernel(launch_values, v, means, 0.5)).float().equal(out.float())


@pytest.mark.parametrize("head_dim", [32, 128])
def test_reference_is_near_float64(head_dim):
    (*tensors, index, count), wide = problem(head_dim)
    got = block_sparse_attention_fp8_reference(*tensors, index, count, SCALES)
    assert_near(got, wide, index, count)


def test_what_is_attended_may_be_the_operand_of_the_next_product():
    (*tensors, index, count), wide = problem(32)
    got = block_sparse_attention_fp8_reference(*tensors, index, count, SCALES._replace(dtype=E4M3))
    assert got.dtype == E4M3
    # Rounded once more.
    assert_near(got.float() * SCALES.v, wide, index, count, PROBABILITY_ERROR)


def test_what_all_values_share_is_not_rounded():
    (q, ring_k, ring_v, _, index, count), _ = problem(32)
    v = torch.full((4 * BLOCK, 2, 32), 0.7)
    store_values_reference(v, v[0], SCALES.v, ring_v)
    got = block_sparse_attention_fp8_reference(q, ring_k, ring_v, v[0], index, count, SCALES)
    torch.testing.assert_close(got[:BLOCK], v[:BLOCK])


def launch_portable(*tensors):
    return block_sparse_attention_fp8(*tensors, SCALES, PORTABLE)


@pytest.mark.parametrize("head_dim", [32, 128])
def test_portable_kernel_is_near_float64(run_kernel, head_dim):
    (*tensors, index, count), wide = problem(head_dim)
    assert_near(run_kernel(launch_portable, *tensors, index, count), wide, index, count)


@pytest.mark.parametrize(
    ("place", "damage", "message"),
    [
        (0, lambda x: x.float(), "q must be contiguous torch.float8_e4m3fn"),
        (2, lambda x: x[:1], r"ring_v must be contiguous .* \(2, 256, 2, 32\), not"),
        (3, lambda x: x.half(), "means must be contiguous torch.float32"),
        (4, lambda x: x[..., :1], "index must be contiguous torch.int32"),
        (5, lambda x: x.long(), "count must be contiguous torch.int32"),
    ],
)
def test_operands_that_no_kernel_can_read_are_refused(place, damage, message):
    given, _ = problem(32)
    given = [damage(x) if at == place else x for at, x in enumerate(given)]
    with pytest.raises(ValueError, match=message):
        launch_portable(*given)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [32, 128])
def test_the_kernel_of_this_gpu_is_near_float64(head_dim):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs FP8 tensor cores")
    (*tensors, index, count), wide = problem(head_dim, windows=6, heads=3, device="cuda")
    capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
    setting = setting_for("block_sparse_attention_fp8", capability, head_dim)
    for chosen in {setting.implementation: setting, "portable": PORTABLE}.values():
        for dtype, scale in ((torch.bfloat16, 1.0), (E4M3, SCALES.v)):
            got = block_sparse_attention_fp8(*tensors, index, count, SCALES._replace(dtype=dtype), chosen)
            largest = PROBABILITY_ERROR if dtype == E4M3 else PROBABILITY_ERROR / 2
            assert_near(got.float().cpu() * scale, wide, index.cpu(), count.cpu(), largest)


def test_scales_hold_whatever_the_tokens_are():
    generator = torch.Generator().manual_seed(0)
    v = torch.nn.Linear(96, 96)
    scale, shift, weight = torch.randn(3, 96, generator=generator)
    scales = attention_scales(weight, weight, v, scale, shift)
    # The worst operand for the channel that reaches farthest: a LayerNorm of all its length along its weight.
    along = v.weight.detach() * scale
    worst = math.sqrt(96) * along / along.norm(dim=1, keepdim=True)
    reached = v(worst * scale + shift).abs().max()
    # Values are kept less a mean that may be as far on the other side.
    assert LARGEST / 3 < 2 * reached / scales.v <= LARGEST
    assert math.sqrt(96) * weight.abs().max() / scales.q <= LARGEST

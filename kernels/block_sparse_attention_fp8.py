"""Block-sparse attention over a K/V ring in e4m3: its operands, its layout of values, and its launch.

The PyTorch references here are the specification. Scales are constants of a layer: bounds that its weights
set on queries, keys and values (`model/fp8_linear.py`), so that nothing is measured when frames run. e4m3 is
a floating format: a bound that is tens of times too wide costs the smallest values some bits.

Values are kept less a mean that a clip's first step has. What all tokens share would be rounded the same way
in all of them, and no sum over keys averages that out; this way it is not rounded at all.
"""

import math
from typing import Any, NamedTuple

import torch

from flashvsr_trt.kernels.attention_launch import allocate_scratch, attention_setting, check_operand
from flashvsr_trt.kernels.calls import kernel_setting, record_call, runs_kernel
from flashvsr_trt.kernels.catalogue import BLOCK
from flashvsr_trt.kernels.fp8 import E4M3, to_e4m3
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.select_blocks import expand_mask
from flashvsr_trt.kernels.tuning import Setting

OPERATOR = "block_sparse_attention_fp8"

LOG2_LARGEST = 8
"""Probabilities are multiplied by 256: the largest power of two that e4m3 holds, for a probability of 1."""

GROUP = 16
"""Keys that `value_order` reorders among themselves."""


class AttentionScales(NamedTuple):
    """What a layer's e4m3 queries, keys and values are multiplied by, and the dtype of what is attended.

    In e4m3 what is attended has the scale of values: it is a mean of some.
    """

    q: float
    k: float
    v: float
    dtype: torch.dtype


def value_order(keys: torch.Tensor) -> torch.Tensor:
    """Which key of its group of 16 stands at each place: as a Hopper thread holds probabilities."""
    place = keys % GROUP
    return keys - place + place // 2 % 2 * 8 + place // 4 * 2 + place % 2


def store_values_reference(v: torch.Tensor, means: torch.Tensor, scale: float, out: torch.Tensor) -> None:
    """v [tokens, heads, head_dim] in window order, less means [heads, head_dim] -> out, e4m3 of that size.

    It then holds [windows, heads, head_dim, 128], each window's keys innermost and in `value_order`.
    """
    windows = (v.float() - means).unflatten(0, (-1, BLOCK)).permute(0, 2, 3, 1)
    windows = windows[..., value_order(torch.arange(BLOCK))]
    out.view(windows.shape).copy_(to_e4m3(windows / scale))


def block_sparse_attention_fp8_reference(
    q: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    means: torch.Tensor,
    index: torch.Tensor,
    count: torch.Tensor,
    scales: AttentionScales,
) -> torch.Tensor:
    """`block_sparse_attention_reference` of e4m3 operands, its probabilities rounded to e4m3 as well.

    Args:
        q: [units*W*128, heads, head_dim] e4m3.
        ring_k: [slots, W*128, heads, head_dim] e4m3, with the step's own keys.
        ring_v: the same memory, laid out as `store_values_reference` does.
        means: [heads, head_dim] float32, what was subtracted from values.
        index, count: as there, of the ring's windows.

    Returns:
        [units*W*128, heads, head_dim] in the dtype that `scales` say.
    """
    heads, head_dim = q.shape[1:]
    keys = ring_k.flatten(0, 1).float().transpose(0, 1)
    order = value_order(torch.arange(BLOCK)).argsort()
    values = ring_v.reshape(-1, heads, head_dim, BLOCK).float()[..., order].permute(1, 0, 3, 2).flatten(1, 2)
    mask, scale = expand_mask(index, count), scales.q * scales.k / math.sqrt(head_dim)
    out_scale = scales.v if scales.dtype == E4M3 else 1.0
    out = q.new_empty(q.shape, dtype=scales.dtype)
    for row in range(count.shape[1]):
        visible = mask[:, row].repeat_interleave(BLOCK, dim=-1)[:, None]
        query = q[row * BLOCK : (row + 1) * BLOCK].float().transpose(0, 1)
        scores = (query @ keys.transpose(1, 2) * scale).masked_fill(~visible, -torch.inf)
        highest = scores.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).min)
        probability = (scores - highest).exp()
        total = probability.sum(dim=-1, keepdim=True)
        weighted = to_e4m3(probability * 2**LOG2_LARGEST).float() @ values
        attended = weighted * (scales.v / 2**LOG2_LARGEST) / torch.where(total > 0, total, 1.0)
        attended = (attended + means[:, None] * (total > 0)) / out_scale
        attended = to_e4m3(attended) if out.dtype == E4M3 else attended
        out[row * BLOCK : (row + 1) * BLOCK] = attended.transpose(0, 1)
    return out


@triton.jit
def store_values_kernel(
    v,
    means,
    out,
    inverse,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One window of one head."""
    window = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    place = tl.arange(0, BLOCK)
    within = place % GROUP
    key = place - within + within // 2 % 2 * 8 + within // 4 * 2 + within % 2
    channel = tl.arange(0, HEAD_DIM)
    token = (window * BLOCK + key) * heads + head
    value = tl.load(v + token[:, None] * HEAD_DIM + channel[None, :]).to(tl.float32)
    value = (value - tl.load(means + head * HEAD_DIM + channel)[None, :]) * inverse
    line = (window * heads + head) * HEAD_DIM + channel
    tl.store(out + line[:, None] * BLOCK + place[None, :], tl.trans(value).to(out.dtype.element_ty))


def store_values(
    v: torch.Tensor, means: torch.Tensor, scale: float, out: torch.Tensor, setting: Setting | None = None
) -> None:
    """`store_values_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernel is to read memory that is not contiguous, or tokens that are no whole windows.
    """
    setting = setting or kernel_setting("store_values", v)
    if setting is None:
        return store_values_reference(v, means, scale, out)
    tokens, heads, head_dim = v.shape
    if not (v.is_contiguous() and out.is_contiguous()) or tokens % BLOCK or out.numel() != v.numel():
        raise ValueError(f"values {tuple(v.shape)} and their place must be contiguous whole windows")
    store_values_kernel[(tokens // BLOCK, heads)](
        v, means, out, 1 / scale, HEAD_DIM=head_dim, BLOCK=BLOCK, GROUP=GROUP, num_warps=setting.num_warps
    )


def block_sparse_attention_fp8(
    q: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    means: torch.Tensor,
    index: torch.Tensor,
    count: torch.Tensor,
    scales: AttentionScales,
    setting: Setting | None = None,
) -> torch.Tensor:
    """`block_sparse_attention_fp8_reference`, by the architecture's fastest kernel where there is a GPU.

    With a `setting` by the kernel that it names.

    Raises:
        ValueError: the kernel is to read an operand of another dtype or shape, or that is not contiguous.
    """
    if setting is None and not runs_kernel(q):
        record_call(OPERATOR, "reference")
        return block_sparse_attention_fp8_reference(q, ring_k, ring_v, means, index, count, scales)
    setting = setting or attention_setting(OPERATOR, q)
    record_call(OPERATOR, setting.implementation)
    tokens, heads, head_dim = q.shape
    rows, ring_windows = tokens // BLOCK, ring_k.numel() // (heads * head_dim * BLOCK)
    for name, tensor, dtype, shape in (
        ("q", q, E4M3, (rows * BLOCK, heads, head_dim)),
        ("ring_k", ring_k, E4M3, ring_k.shape),
        ("ring_v", ring_v, E4M3, ring_k.shape),
        ("means", means, torch.float32, (heads, head_dim)),
        ("index", index, torch.int32, (heads, rows, ring_windows)),
        ("count", count, torch.int32, (heads, rows)),
    ):
        check_operand(name, tensor, dtype, shape)
    options: dict[str, Any] = {"num_warps": setting.num_warps, **setting.constants}
    kernel: Any
    if setting.implementation == "hopper":
        from flashvsr_trt.kernels.block_sparse_attention_fp8_hopper import (
            block_sparse_attention_fp8_hopper as kernel,
        )

        triton.set_allocator(allocate_scratch)
    else:
        from flashvsr_trt.kernels.block_sparse_attention_fp8_triton import (
            block_sparse_attention_fp8 as kernel,
        )

        # The interpreter multiplies no e4m3; what it multiplies is exact in float32.
        options["MULTIPLIED"] = tl.float8e4nv if q.is_cuda else tl.float32
        options["GROUP"] = GROUP
        options["num_stages"] = setting.num_stages
    out = q.new_empty(q.shape, dtype=scales.dtype)
    kernel[(rows, heads)](
        q,
        ring_k,
        ring_v,
        means,
        index,
        count,
        ring_windows,
        scales.q * scales.k * math.log2(math.e) / math.sqrt(head_dim),
        scales.v,
        scales.v if out.dtype == E4M3 else 1.0,
        out,
        HEAD_DIM=head_dim,
        BLOCK=BLOCK,
        LOG2_LARGEST=LOG2_LARGEST,
        **options,
    )
    return out

"""Block-sparse attention over a K/V ring in e4m3 with a scale for each window and head: `--kv-cache fp8`.

The step's own keys and values are in the network's dtype still: they stand in for their slots of the ring.
The PyTorch reference here is the specification. Scales are powers of two: nothing is rounded a second time.
"""

import math
from typing import Any

import torch

from flashvsr_trt.kernels.attention_launch import attention_setting, check_operand
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.calls import architecture_of, record_call, runs_kernel
from flashvsr_trt.kernels.catalogue import BLOCK, HEAD_DIMS
from flashvsr_trt.kernels.fp8 import E4M3
from flashvsr_trt.kernels.scaled_windows import widen_windows_reference
from flashvsr_trt.kernels.tuning import Setting, setting_for

OPERATOR = "block_sparse_attention_scaled"

WIDENED = "widened"
"""The table's implementation where attention of 16 bits on a widened ring is faster than this kernel."""


def block_sparse_attention_scaled_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    key_scales: torch.Tensor,
    value_scales: torch.Tensor,
    own_slot: int,
    index: torch.Tensor,
    count: torch.Tensor,
) -> torch.Tensor:
    """`block_sparse_attention_reference` over the ring, widened, with k and v in their slots.

    Args:
        q, k, v: [units*W*128, heads, head_dim] in window order.
        ring_k, ring_v: [slots, W*128, heads, head_dim] e4m3.
        key_scales, value_scales: [slots, W, heads] float32, more than 0 where a window is listed.
        own_slot: the first of the slots in whose place k and v are.
        index, count: as there, of the ring's windows; each row ascending, as `select_blocks` lists them.

    Returns:
        [units*W*128, heads, head_dim], the dtype of q.
    """
    place = slice(own_slot * ring_k.shape[1], own_slot * ring_k.shape[1] + len(k))
    keys, values = (torch.empty(x.shape, dtype=q.dtype, device=q.device) for x in (ring_k, ring_v))
    for kept, scales, wide, own in ((ring_k, key_scales, keys, k), (ring_v, value_scales, values, v)):
        widen_windows_reference(*(x.flatten(0, 1) for x in (kept, scales, wide)))
        wide.flatten(0, 1)[place] = own
    return block_sparse_attention_reference(q, k[:0], v[:0], keys, values, index, count)


def reads_scaled_ring(device: torch.device, head_dim: int) -> bool:
    """Whether attention on this device reads such a ring itself; else its slots are widened before."""
    if device.type != "cuda":
        return True
    return setting_for(OPERATOR, architecture_of(device), head_dim).implementation != WIDENED


def block_sparse_attention_scaled(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    key_scales: torch.Tensor,
    value_scales: torch.Tensor,
    own_slot: int,
    index: torch.Tensor,
    count: torch.Tensor,
    setting: Setting | None = None,
) -> torch.Tensor:
    """`block_sparse_attention_scaled_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernel is to read a head_dim that it is not made for, or an operand of another dtype
            or shape, or that is not contiguous.
    """
    if setting is None and not runs_kernel(q):
        record_call(OPERATOR, "reference")
        return block_sparse_attention_scaled_reference(
            q, k, v, ring_k, ring_v, key_scales, value_scales, own_slot, index, count
        )
    record_call(OPERATOR, "portable")
    # A launch takes options that are no parameters of the kernel: Triton's own types refuse them.
    kernel: Any
    from flashvsr_trt.kernels.block_sparse_attention_scaled_triton import (
        block_sparse_attention_scaled as kernel,
    )
    from flashvsr_trt.kernels.block_sparse_attention_triton import MULTIPLIED

    tokens, heads, head_dim = q.shape
    slots, slot_tokens = ring_k.shape[:2]
    windows, rows = slot_tokens // BLOCK, tokens // BLOCK
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"head_dim {head_dim} has no attention kernel; it is one of {HEAD_DIMS}")
    if own_slot < 0 or own_slot * slot_tokens + len(k) > slots * slot_tokens:
        raise ValueError(f"{len(k)} own tokens from slot {own_slot} on are beyond {slots} of {slot_tokens}")
    own, ring = (len(k) // BLOCK * BLOCK, heads, head_dim), (slots, windows * BLOCK, heads, head_dim)
    scale = slots, windows, heads
    for name, tensor, dtype, shape in (
        ("q", q, q.dtype, (rows * BLOCK, heads, head_dim)),
        ("k", k, q.dtype, own),
        ("v", v, q.dtype, own),
        ("ring_k", ring_k, E4M3, ring),
        ("ring_v", ring_v, E4M3, ring),
        ("key_scales", key_scales, torch.float32, scale),
        ("value_scales", value_scales, torch.float32, scale),
        ("index", index, torch.int32, (heads, rows, slots * windows)),
        ("count", count, torch.int32, (heads, rows)),
    ):
        check_operand(name, tensor, dtype, shape)
    setting = setting or attention_setting(OPERATOR, q)
    out = q.new_empty(q.shape)
    kernel[(rows, heads)](
        q,
        k,
        v,
        # As bytes: sm_80 and sm_86 have no conversions of e4m3, and Triton refuses the dtype there.
        ring_k.view(torch.int8),
        ring_v.view(torch.int8),
        key_scales,
        value_scales,
        index,
        count,
        slots * windows,
        own_slot * windows,
        len(k) // BLOCK,
        out,
        HEAD_DIM=head_dim,
        BLOCK=BLOCK,
        SCALE=math.log2(math.e) / math.sqrt(head_dim),
        MULTIPLIED=MULTIPLIED[q.dtype if q.is_cuda else torch.float32],
        num_warps=setting.num_warps,
        num_stages=setting.num_stages,
        **setting.constants,
    )
    return out

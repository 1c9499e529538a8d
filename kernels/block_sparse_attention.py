"""Attention over the listed 128-token blocks of the current chunk and of the K/V ring.

The PyTorch reference here is the specification.
"""

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.select_blocks import expand_mask


def block_sparse_attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    index: torch.Tensor,
    count: torch.Tensor,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(head_dim)) v over the listed key windows; zeros for a row that lists none.

    Args:
        q: [units*W*128, heads, head_dim] in window order, any strides.
        k, v: the step's own, as q; or empty [0, heads, head_dim] where these are in slots of the ring.
        ring_k, ring_v: [slots, W*128, heads, head_dim], any strides.
        index: [heads, units*W, (slots+own)*W] int32, key windows: slot s holds s*W .. s*W+W-1, the
            own units of k and v follow.
        count: [heads, units*W] int32, how many entries of `index` are listed.

    Returns:
        [units*W*128, heads, head_dim], the dtype of q; softmax and sums in float32.
    """
    tokens = q.shape[0]
    rows = count.shape[1]
    block = tokens // rows
    keys = torch.cat([ring_k.flatten(0, 1), k]).transpose(0, 1)
    values = torch.cat([ring_v.flatten(0, 1), v]).transpose(0, 1)
    mask = expand_mask(index, count)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    # One query window at a time bounds the memory: the whole map of a large frame would not fit.
    for row in range(rows):
        visible = mask[:, row].repeat_interleave(block, dim=-1)[:, None]
        query = q[row * block : (row + 1) * block].transpose(0, 1)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
        attended = attended.masked_fill(count[:, row, None, None] == 0, 0.0)
        out[row * block : (row + 1) * block] = attended.transpose(0, 1)
    return out

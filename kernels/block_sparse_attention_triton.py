"""Block-sparse attention for sm_80 and newer: the kernel form of `block_sparse_attention_reference`."""

import torch
import triton
import triton.language as tl

MULTIPLIED = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@triton.jit
def weigh_keys(query, keys, scale, total, highest):
    """A tile of keys more: probabilities before their division, what shrinks sums, total and highest score.

    `scale` multiplies scores.
    """
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
    new_highest = tl.maximum(highest, tl.max(scores, axis=1))
    probability = tl.exp2(scores - new_highest[:, None])
    shrink = tl.exp2(highest - new_highest)
    return probability, shrink, total * shrink + tl.sum(probability, axis=1), new_highest


@triton.jit
def add_values(weighted, shrink, probability, values, MULTIPLIED: tl.constexpr):
    """What was weighted so far times `shrink`, and a tile's values more.

    Probabilities are rounded to values' dtype.
    """
    weighted = weighted * shrink[:, None]
    probability = probability.to(values.dtype).to(MULTIPLIED)
    return tl.dot(probability, values.to(MULTIPLIED), weighted, input_precision="ieee")


@triton.jit
def block_sparse_attention(
    q,
    k,
    v,
    ring_k,
    ring_v,
    index,
    count,
    ring_windows,
    q_stride,
    k_stride,
    v_stride,
    ring_stride,
    out,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    SCALE: tl.constexpr,
    MULTIPLIED: tl.constexpr,
    OWN: tl.constexpr,
):
    """One query window of one head per program, over its listed key windows, KEYS keys at a time.

    Strides are elements from token to token; a head's channels are adjacent and heads follow each other.
    SCALE is log2(e)/sqrt(head_dim): the softmax is taken with exp2. MULTIPLIED is the dtype that products are
    taken in: the tensors' own, or float32 under the interpreter, which has no bf16 arithmetic. Without OWN
    the ring holds all keys and values, and k and v are not read.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.num_programs(0)
    heads = tl.num_programs(1)

    token = tl.arange(0, BLOCK)
    key = tl.arange(0, KEYS)
    channel = tl.arange(0, HEAD_DIM)
    head_offset = head * HEAD_DIM
    query_token = (row * BLOCK + token).to(tl.int64)
    query = tl.load(q + query_token[:, None] * q_stride + (head_offset + channel)[None, :]).to(MULTIPLIED)

    listed = tl.load(count + head * rows + row)
    line = index + (head * rows + row).to(tl.int64) * (ring_windows + (rows if OWN else 0))
    ring_offset = key[:, None] * ring_stride + (head_offset + channel)[None, :]
    k_offset = key[:, None] * k_stride + (head_offset + channel)[None, :]
    v_offset = key[:, None] * v_stride + (head_offset + channel)[None, :]

    weighted = tl.zeros([BLOCK, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    TILES: tl.constexpr = BLOCK // KEYS
    for tile in range(listed * TILES):
        window = tl.load(line + tile // TILES)
        in_ring = window < ring_windows
        first = (tl.where(in_ring, window, window - ring_windows) * BLOCK + tile % TILES * KEYS).to(tl.int64)
        k_tile = tl.where(in_ring, ring_k + first * ring_stride, k + first * k_stride)
        v_tile = tl.where(in_ring, ring_v + first * ring_stride, v + first * v_stride)
        keys = tl.load(k_tile + tl.where(in_ring, ring_offset, k_offset)).to(MULTIPLIED)
        probability, shrink, total, highest = weigh_keys(query, keys, SCALE, total, highest)
        # Loaded before the scores, values would take as much shared memory again.
        values = tl.load(v_tile + tl.where(in_ring, ring_offset, v_offset))
        weighted = add_values(weighted, shrink, probability, values, MULTIPLIED)

    weighted = weighted / tl.where(total > 0, total, 1.0)[:, None]
    out += query_token[:, None] * (heads * HEAD_DIM) + (head_offset + channel)[None, :]
    tl.store(out, weighted.to(out.dtype.element_ty))

"""FP8 block-sparse attention for sm_89 and newer: `block_sparse_attention_fp8_reference` as a kernel."""

import triton
import triton.language as tl


@triton.jit
def block_sparse_attention_fp8(
    q,
    ring_k,
    ring_v,
    means,
    index,
    count,
    ring_windows,
    score_scale,
    value_scale,
    out_scale,
    out,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    GROUP: tl.constexpr,
    LOG2_LARGEST: tl.constexpr,
    MULTIPLIED: tl.constexpr,
):
    """One query window of one head per program, over its listed key windows, KEYS keys at a time.

    score_scale is q's and k's scales * log2(e)/sqrt(head_dim), value_scale v's, out_scale the result's.
    `means` [heads, head_dim] are what values are kept less. MULTIPLIED is e4m3, or float32 under the
    interpreter. Probabilities, and so their total, are times 2**LOG2_LARGEST.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.num_programs(0)
    heads = tl.num_programs(1)
    width = heads * HEAD_DIM

    token = tl.arange(0, BLOCK)
    place = tl.arange(0, KEYS)
    within = place % GROUP
    # The order of values: so keys are read in it, and scores come in it.
    key = place - within + within // 2 % 2 * 8 + within // 4 * 2 + within % 2
    channel = tl.arange(0, HEAD_DIM)
    target = (row * BLOCK + token).to(tl.int64)[:, None] * width + (head * HEAD_DIM + channel)[None, :]
    query = tl.load(q + target).to(MULTIPLIED)

    listed = tl.load(count + head * rows + row)
    line = index + (head * rows + row).to(tl.int64) * ring_windows
    weighted = tl.zeros([BLOCK, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    TILES: tl.constexpr = BLOCK // KEYS
    for tile in range(listed * TILES):
        window = tl.load(line + tile // TILES).to(tl.int64)
        first = tile % TILES * KEYS
        k_place = (window * BLOCK + first + key)[:, None] * width + (head * HEAD_DIM + channel)[None, :]
        keys = tl.load(ring_k + k_place).to(MULTIPLIED)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * score_scale
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        probability = tl.exp2(scores - (new_highest - LOG2_LARGEST)[:, None])
        shrink = tl.exp2(highest - new_highest)
        total = total * shrink + tl.sum(probability, axis=1)
        v_place = ((window * heads + head) * HEAD_DIM + channel)[:, None] * BLOCK + (first + place)[None, :]
        values = tl.load(ring_v + v_place).to(MULTIPLIED)
        weighted = weighted * shrink[:, None]
        probability = probability.to(MULTIPLIED)
        weighted = tl.dot(probability, tl.trans(values), weighted, input_precision="ieee")
        highest = new_highest

    weighted *= (value_scale / tl.where(total > 0, total, 1.0))[:, None]
    weighted += tl.where((total > 0)[:, None], tl.load(means + head * HEAD_DIM + channel)[None, :], 0.0)
    tl.store(out + target, (weighted / out_scale).to(out.dtype.element_ty))

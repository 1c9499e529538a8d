"""Block-sparse attention for sm_90: TMA, asynchronous wgmma and specialised warps, written in Gluon.

One producer warp follows the index list and keeps a ring of key and value blocks full; two consumer warp
groups take 64 query rows each. The product of probabilities and values runs one block behind the scores, so
that the tensor cores work on it during the next block's softmax. Same arguments and results as the portable
kernel beside it; `out` is followed by the scratch that the tensor descriptors are built in.

`attend` serves operands in e4m3 as well (`block_sparse_attention_fp8_hopper`).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from flashvsr_trt.kernels.softmax_hopper import (
    as_operand,
    by_key,
    kept_probability,
    softmax_step,
)

# Triton 3.9 renamed the call; 3.6 to 3.8 know the older name.
tma_load = getattr(tma, "async_load", tma.async_copy_global_to_shared)


@gluon.jit
def _consume(
    half: gl.constexpr,
    window,
    buffers,
    barriers,
    HEAD_DIM: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    LOG2_LARGEST: gl.constexpr,
):
    """Attention of 64 query rows over all listed blocks; `out` points at the query window's first row."""
    out, out_stride, listed, scale, value_scale, out_scale, means = window
    queries, keys, values = buffers
    q_ready, k_ready, k_free, v_ready, v_free = barriers
    HALF: gl.constexpr = BLOCK // 2
    VALUE_BITS: gl.constexpr = values.dtype.primitive_bitwidth
    # A product takes 32 bytes of each row of its operands at a time.
    score_layout: gl.constexpr = gl.NVMMADistributedLayout(
        [3, 0], [4, 1], [16, BLOCK, 256 // queries.dtype.primitive_bitwidth]
    )
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 256 // VALUE_BITS])
    operand: gl.constexpr = gl.DotOperandLayout(0, out_layout, 32 // VALUE_BITS)

    weighted = gl.zeros([HALF, HEAD_DIM], gl.float32, out_layout)
    highest = gl.full([HALF], float("-inf"), gl.float32, gl.SliceLayout(1, score_layout))
    total = gl.zeros([HALF], gl.float32, gl.SliceLayout(1, score_layout))
    query = queries.index(half)
    # Also where nothing is listed: the program must not end before its copies have landed.
    mbarrier.wait(q_ready, 0)
    if listed > 0:
        scores = gl.zeros([HALF, BLOCK], gl.float32, score_layout)
        mbarrier.wait(k_ready.index(0), 0)
        pending = warpgroup_mma(query, keys.index(0).permute((1, 0)), scores, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[pending])
        mbarrier.arrive(k_free.index(0), count=1)
        probability, highest, total, shrink = softmax_step(scores, highest, total, scale, LOG2_LARGEST)
        kept = kept_probability(probability, operand, values.dtype)
        for tile in range(1, listed):
            weight = as_operand(kept, operand, values.dtype)
            stage = tile % STAGES
            before = (tile - 1) % STAGES
            mbarrier.wait(k_ready.index(stage), (tile // STAGES) & 1)
            pending = warpgroup_mma(
                query, keys.index(stage).permute((1, 0)), scores, use_acc=False, is_async=True
            )
            mbarrier.wait(v_ready.index(before), ((tile - 1) // STAGES) & 1)
            summed = warpgroup_mma(weight, by_key(values.index(before)), weighted, is_async=True)
            scores = warpgroup_mma_wait(1, deps=[pending])
            mbarrier.arrive(k_free.index(stage), count=1)
            probability, highest, total, shrink = softmax_step(scores, highest, total, scale, LOG2_LARGEST)
            if VALUE_BITS == 16:
                kept = kept_probability(probability, operand, values.dtype)
            weighted = warpgroup_mma_wait(0, deps=[summed])
            mbarrier.arrive(v_free.index(before), count=1)
            if VALUE_BITS == 8:
                kept = kept_probability(probability, operand, values.dtype)
            factor = gl.convert_layout(shrink, gl.SliceLayout(1, out_layout))
            weighted = weighted * gl.expand_dims(factor, 1)
        last = listed - 1
        weight = as_operand(kept, operand, values.dtype)
        mbarrier.wait(v_ready.index(last % STAGES), (last // STAGES) & 1)
        summed = warpgroup_mma(weight, by_key(values.index(last % STAGES)), weighted, is_async=True)
        weighted = warpgroup_mma_wait(0, deps=[summed])
        row_total = gl.convert_layout(total, gl.SliceLayout(1, out_layout))
        if VALUE_BITS == 16:
            weighted = weighted / gl.expand_dims(row_total, 1)
        else:
            mean = gl.load(means + gl.arange(0, HEAD_DIM, gl.SliceLayout(0, out_layout)))
            weighted = weighted * gl.expand_dims(value_scale / row_total, 1)
            weighted = (weighted + gl.expand_dims(mean, 0)) / out_scale
    row = half * HALF + gl.arange(0, HALF, gl.SliceLayout(1, out_layout))
    channel = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, out_layout))
    target = out + gl.expand_dims(row * out_stride, 1) + gl.expand_dims(channel, 0)
    gl.store(target, weighted.to(out.dtype.element_ty))


@gluon.jit
def _produce(
    line,
    listed,
    query_token,
    channel,
    width,
    ring_windows,
    tiles,
    buffers,
    barriers,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    OWN: gl.constexpr,
):
    """Copies the query window, then each listed key window's K and V, as room in the ring comes free."""
    q_tiles, k_tiles, v_tiles, ring_k_tiles, ring_v_tiles = tiles
    queries, keys, values = buffers
    q_ready, k_ready, k_free, v_ready, v_free = barriers
    HALF: gl.constexpr = BLOCK // 2
    mbarrier.expect(q_ready, 2 * q_tiles.block_type.nbytes)
    tma_load(q_tiles, [query_token, channel], q_ready, queries.index(0))
    tma_load(q_tiles, [query_token + HALF, channel], q_ready, queries.index(1))
    following = gl.load(line)
    for tile in range(listed):
        window = following
        following = gl.load(line + gl.minimum(tile + 1, listed - 1))
        stage = tile % STAGES
        free = ((tile // STAGES) & 1) ^ 1
        in_ring = window < ring_windows
        ring_token = window * BLOCK
        token = ring_token - ring_windows * BLOCK

        mbarrier.wait(k_free.index(stage), free)
        ready = k_ready.index(stage)
        mbarrier.expect(ready, k_tiles.block_type.nbytes)
        tma_load(ring_k_tiles, [ring_token, channel], ready, keys.index(stage), pred=in_ring)
        if OWN:
            tma_load(k_tiles, [token, channel], ready, keys.index(stage), pred=window >= ring_windows)

        mbarrier.wait(v_free.index(stage), free)
        ready = v_ready.index(stage)
        mbarrier.expect(ready, v_tiles.block_type.nbytes)
        if values.dtype.primitive_bitwidth == 8:
            # A window's head is so many lines, of one channel each.
            tma_load(ring_v_tiles, [window * width + channel, 0], ready, values.index(stage))
        else:
            tma_load(ring_v_tiles, [ring_token, channel], ready, values.index(stage), pred=in_ring)
        if OWN:
            tma_load(v_tiles, [token, channel], ready, values.index(stage), pred=window >= ring_windows)


@gluon.jit
def attend(
    out,
    width,
    line,
    listed,
    row,
    head,
    ring_windows,
    scale,
    value_scale,
    out_scale,
    means,
    tiles,
    HEAD_DIM: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    LOG2_LARGEST: gl.constexpr,
    OWN: gl.constexpr,
):
    """One program: its place in shared memory, its barriers and its warps.

    Args:
        line: of the program's row in the index, `width` what a token's heads have in `out`.
        scale: of scores, log2(e)/sqrt(head_dim) and that of q and k.
        value_scale, out_scale, means: of e4m3 values, of the result, and what was subtracted from each of the
            values' channels.
        tiles: tensor descriptors of half a block of q, and of a block of k, v, ring_k and ring_v.
    """
    q_tiles, k_tiles, v_tiles, _, _ = tiles
    HALF: gl.constexpr = BLOCK // 2
    queries = gl.allocate_shared_memory(q_tiles.dtype, [2, HALF, HEAD_DIM], q_tiles.layout)
    keys = gl.allocate_shared_memory(k_tiles.dtype, [STAGES, BLOCK, HEAD_DIM], k_tiles.layout)
    value: gl.constexpr = v_tiles.block_type.shape
    values = gl.allocate_shared_memory(v_tiles.dtype, [STAGES, value[0], value[1]], v_tiles.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(v_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_free.index(stage), count=2)
    buffers = queries, keys, values
    barriers = q_ready, k_ready, k_free, v_ready, v_free
    window_out = out + (row * BLOCK).to(gl.int64) * width + head * HEAD_DIM
    window = window_out, width, listed, scale, value_scale, out_scale, means
    # fmt: off
    gl.warp_specialize(
        [
            (_consume, (0, window, buffers, barriers, HEAD_DIM, BLOCK, STAGES, LOG2_LARGEST)),
            (_consume, (1, window, buffers, barriers, HEAD_DIM, BLOCK, STAGES, LOG2_LARGEST)),
            (_produce, (line, listed, row * BLOCK, head * HEAD_DIM, width, ring_windows, tiles, buffers,
                        barriers, BLOCK, STAGES, OWN)),
        ],
        [4, 1],
        [240, 24],
    )
    # fmt: on


@gluon.jit
def _rank_key(count, rows, row):
    """A number that no other row has: of equal counts the first row's is the greatest."""
    return gl.load(count + row) * rows + rows - 1 - row


@gluon.jit
def row_of_rank(count, rows, rank):
    """The row that lists the rank-th most blocks of its head; of equal rows the first comes first."""
    layout: gl.constexpr = gl.BlockedLayout([2], [32], [4], [0])
    found = 0
    for first in range(0, rows, 256):
        row = first + gl.arange(0, 256, layout)
        own = gl.load(count + row, mask=row < rows, other=0) * rows + rows - 1 - row
        ahead = gl.zeros([256], gl.int32, layout)
        # Sixteen loads on their way at once: nothing else runs yet that would hide the wait.
        whole = rows // 16 * 16
        for others in range(0, whole, 16):
            for other in gl.static_range(16):
                ahead += (_rank_key(count, rows, others + other) > own).to(gl.int32)
        for other in range(whole, rows):
            ahead += (_rank_key(count, rows, other) > own).to(gl.int32)
        found += gl.sum(gl.where((ahead == rank) & (row < rows), row, 0), axis=0)
    return found


@gluon.jit
def block_sparse_attention_hopper(
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
    HEAD_DIM: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    SCALE: gl.constexpr,
    LONGEST_FIRST: gl.constexpr,
    OWN: gl.constexpr,
):
    """One query window of one head per program. Arguments as of the portable kernel."""
    HALF: gl.constexpr = BLOCK // 2
    head = gl.program_id(1)
    rows = gl.num_programs(0)
    row = gl.program_id(0)
    if LONGEST_FIRST:
        row = row_of_rank(count + head * rows, rows, row)
    width = gl.num_programs(1) * HEAD_DIM
    listed = gl.load(count + head * rows + row)
    line = index + (head * rows + row).to(gl.int64) * (ring_windows + (rows if OWN else 0))

    dtype: gl.constexpr = q.dtype.element_ty
    tile_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, HEAD_DIM], dtype)
    half_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HALF, HEAD_DIM], dtype)
    tokens = rows * BLOCK
    ring_tokens = gl.maximum(ring_windows, 1) * BLOCK
    q_tiles = tma.make_tensor_descriptor(q, [tokens, width], [q_stride, 1], [HALF, HEAD_DIM], half_layout)
    ring_k_tiles = tma.make_tensor_descriptor(
        ring_k, [ring_tokens, width], [ring_stride, 1], [BLOCK, HEAD_DIM], tile_layout
    )
    ring_v_tiles = tma.make_tensor_descriptor(
        ring_v, [ring_tokens, width], [ring_stride, 1], [BLOCK, HEAD_DIM], tile_layout
    )
    k_tiles = ring_k_tiles
    v_tiles = ring_v_tiles
    if OWN:
        k_tiles = tma.make_tensor_descriptor(
            k, [tokens, width], [k_stride, 1], [BLOCK, HEAD_DIM], tile_layout
        )
        v_tiles = tma.make_tensor_descriptor(
            v, [tokens, width], [v_stride, 1], [BLOCK, HEAD_DIM], tile_layout
        )

    tiles = q_tiles, k_tiles, v_tiles, ring_k_tiles, ring_v_tiles
    # fmt: off
    attend(out, width, line, listed, row, head, ring_windows, SCALE, 0, 0, 0, tiles, HEAD_DIM, BLOCK, STAGES,
           0, OWN)
    # fmt: on

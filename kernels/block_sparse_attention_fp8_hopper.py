"""FP8 block-sparse attention for sm_90: the form of `block_sparse_attention_hopper` with e4m3 operands.

Both products need operands that are contiguous along what is summed: so values lie with a window's keys
innermost. A thread has its probabilities in another order than the second product wants them; values are
kept in that order (`value_order`), and no probability moves between threads.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from flashvsr_trt.kernels.block_sparse_attention_hopper import _row_of_rank, tma_load


@gluon.jit
def _softmax_step(scores, highest, total, scale, operand: gl.constexpr, LOG2_LARGEST: gl.constexpr):
    """Online softmax of one block: probabilities times 2**LOG2_LARGEST as an e4m3 operand, and the state."""
    HALF: gl.constexpr = scores.shape[0]
    BLOCK: gl.constexpr = scores.shape[1]
    new_highest = gl.maximum(highest, gl.max(scores, axis=1) * scale)
    shift = new_highest - LOG2_LARGEST
    probability = gl.exp2(scores * scale - gl.expand_dims(shift, 1))
    shrink = gl.exp2(highest - new_highest)
    total = total * shrink + gl.sum(probability, axis=1)
    # Of 16 keys a thread has 2t, 2t+1, 2t+8 and 2t+9. Renamed 4t to 4t+3 they stay where they are.
    renamed = gl.reshape(probability.to(gl.float8e4nv), [HALF, BLOCK // 16, 2, 4, 2])
    renamed = gl.reshape(gl.permute(renamed, (0, 1, 3, 2, 4)), [HALF, BLOCK])
    return gl.convert_layout(renamed, operand), new_highest, total, shrink


@gluon.jit
def _consume(
    half: gl.constexpr,
    out,
    out_stride,
    listed,
    score_scale,
    value_scale,
    queries,
    keys,
    values,
    q_ready,
    k_ready,
    k_free,
    v_ready,
    v_free,
    HEAD_DIM: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    LOG2_LARGEST: gl.constexpr,
):
    """Attention of 64 query rows over all listed blocks; `out` points at the query window's first row."""
    HALF: gl.constexpr = BLOCK // 2
    score_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 32])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 32])
    operand: gl.constexpr = gl.DotOperandLayout(0, out_layout, 4)

    weighted = gl.zeros([HALF, HEAD_DIM], gl.float32, out_layout)
    highest = gl.full([HALF], float("-inf"), gl.float32, gl.SliceLayout(1, score_layout))
    total = gl.zeros([HALF], gl.float32, gl.SliceLayout(1, score_layout))
    query = queries.index(half)
    # Also where nothing is listed: the program must not end before its copies have landed.
    mbarrier.wait(q_ready, 0)
    if listed > 0:
        mbarrier.wait(k_ready.index(0), 0)
        scores = gl.zeros([HALF, BLOCK], gl.float32, score_layout)
        pending = warpgroup_mma(query, keys.index(0).permute((1, 0)), scores, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[pending])
        mbarrier.arrive(k_free.index(0), count=1)
        probability, highest, total, shrink = _softmax_step(
            scores, highest, total, score_scale, operand, LOG2_LARGEST
        )
        for tile in range(1, listed):
            stage = tile % STAGES
            before = (tile - 1) % STAGES
            mbarrier.wait(k_ready.index(stage), (tile // STAGES) & 1)
            pending = warpgroup_mma(
                query, keys.index(stage).permute((1, 0)), scores, use_acc=False, is_async=True
            )
            mbarrier.wait(v_ready.index(before), ((tile - 1) // STAGES) & 1)
            summed = warpgroup_mma(probability, values.index(before).permute((1, 0)), weighted, is_async=True)
            scores = warpgroup_mma_wait(1, deps=[pending])
            mbarrier.arrive(k_free.index(stage), count=1)
            following, highest, total, shrink = _softmax_step(
                scores, highest, total, score_scale, operand, LOG2_LARGEST
            )
            weighted = warpgroup_mma_wait(0, deps=[summed])
            mbarrier.arrive(v_free.index(before), count=1)
            probability = following
            factor = gl.convert_layout(shrink, gl.SliceLayout(1, out_layout))
            weighted = weighted * gl.expand_dims(factor, 1)
        last = listed - 1
        mbarrier.wait(v_ready.index(last % STAGES), (last // STAGES) & 1)
        summed = warpgroup_mma(
            probability, values.index(last % STAGES).permute((1, 0)), weighted, is_async=True
        )
        weighted = warpgroup_mma_wait(0, deps=[summed])
        total = gl.convert_layout(total, gl.SliceLayout(1, out_layout))
        weighted = weighted * gl.expand_dims(value_scale / total, 1)
    row = half * HALF + gl.arange(0, HALF, gl.SliceLayout(1, out_layout))
    channel = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, out_layout))
    target = out + gl.expand_dims(row * out_stride, 1) + gl.expand_dims(channel, 0)
    gl.store(target, weighted.to(out.dtype.element_ty))


@gluon.jit
def _produce(
    line,
    listed,
    query_token,
    head,
    heads,
    q_tiles,
    k_tiles,
    v_tiles,
    queries,
    keys,
    values,
    q_ready,
    k_ready,
    k_free,
    v_ready,
    v_free,
    HEAD_DIM: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Copies the query window, then each listed key window's K and V, as room in the ring comes free."""
    HALF: gl.constexpr = BLOCK // 2
    channel = head * HEAD_DIM
    mbarrier.expect(q_ready, 2 * q_tiles.block_type.nbytes)
    tma_load(q_tiles, [query_token, channel], q_ready, queries.index(0))
    tma_load(q_tiles, [query_token + HALF, channel], q_ready, queries.index(1))
    following = gl.load(line)
    for tile in range(listed):
        window = following
        following = gl.load(line + gl.minimum(tile + 1, listed - 1))
        stage = tile % STAGES
        free = ((tile // STAGES) & 1) ^ 1

        mbarrier.wait(k_free.index(stage), free)
        ready = k_ready.index(stage)
        mbarrier.expect(ready, k_tiles.block_type.nbytes)
        tma_load(k_tiles, [window * BLOCK, channel], ready, keys.index(stage))

        mbarrier.wait(v_free.index(stage), free)
        ready = v_ready.index(stage)
        mbarrier.expect(ready, v_tiles.block_type.nbytes)
        tma_load(v_tiles, [(window * heads + head) * HEAD_DIM, 0], ready, values.index(stage))


@gluon.jit
def block_sparse_attention_fp8_hopper(
    q,
    ring_k,
    ring_v,
    index,
    count,
    ring_windows,
    score_scale,
    value_scale,
    out,
    HEAD_DIM: gl.constexpr,
    BLOCK: gl.constexpr,
    STAGES: gl.constexpr,
    LONGEST_FIRST: gl.constexpr,
    LOG2_LARGEST: gl.constexpr,
):
    """One query window of one head per program. Arguments as of the portable kernel."""
    HALF: gl.constexpr = BLOCK // 2
    head = gl.program_id(1)
    heads = gl.num_programs(1)
    rows = gl.num_programs(0)
    row = gl.program_id(0)
    if LONGEST_FIRST:
        row = _row_of_rank(count + head * rows, rows, row)
    width = heads * HEAD_DIM
    listed = gl.load(count + head * rows + row)
    line = index + (head * rows + row).to(gl.int64) * ring_windows

    dtype: gl.constexpr = q.dtype.element_ty
    key_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, HEAD_DIM], dtype)
    value_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HEAD_DIM, BLOCK], dtype)
    half_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HALF, HEAD_DIM], dtype)
    tokens = rows * BLOCK
    ring_tokens = ring_windows * BLOCK
    q_tiles = tma.make_tensor_descriptor(q, [tokens, width], [width, 1], [HALF, HEAD_DIM], half_layout)
    k_tiles = tma.make_tensor_descriptor(
        ring_k, [ring_tokens, width], [width, 1], [BLOCK, HEAD_DIM], key_layout
    )
    v_tiles = tma.make_tensor_descriptor(
        ring_v, [ring_windows * width, BLOCK], [BLOCK, 1], [HEAD_DIM, BLOCK], value_layout
    )

    queries = gl.allocate_shared_memory(dtype, [2, HALF, HEAD_DIM], half_layout)
    keys = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, HEAD_DIM], key_layout)
    values = gl.allocate_shared_memory(dtype, [STAGES, HEAD_DIM, BLOCK], value_layout)
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

    window_out = out + (row * BLOCK).to(gl.int64) * width + head * HEAD_DIM
    # fmt: off
    gl.warp_specialize(
        [
            (_consume, (0, window_out, width, listed, score_scale, value_scale, queries, keys, values,
                        q_ready, k_ready, k_free, v_ready, v_free, HEAD_DIM, BLOCK, STAGES, LOG2_LARGEST)),
            (_consume, (1, window_out, width, listed, score_scale, value_scale, queries, keys, values,
                        q_ready, k_ready, k_free, v_ready, v_free, HEAD_DIM, BLOCK, STAGES, LOG2_LARGEST)),
            (_produce, (line, listed, row * BLOCK, head, heads, q_tiles, k_tiles, v_tiles, queries, keys,
                        values, q_ready, k_ready, k_free, v_ready, v_free, HEAD_DIM, BLOCK, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )
    # fmt: on

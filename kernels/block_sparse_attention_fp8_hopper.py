"""FP8 block-sparse attention for sm_90: `block_sparse_attention_hopper` with operands in e4m3.

Both products want operands that are contiguous along what is summed: so values lie with a window's keys
innermost. A thread has its probabilities in another order than the second product wants them; values are
kept in that order (`value_order`), and no probability moves between threads.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

from flashvsr_trt.kernels.block_sparse_attention_hopper import attend, row_of_rank


@gluon.jit
def block_sparse_attention_fp8_hopper(
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
        row = row_of_rank(count + head * rows, rows, row)
    width = heads * HEAD_DIM
    listed = gl.load(count + head * rows + row)
    line = index + (head * rows + row).to(gl.int64) * ring_windows

    dtype: gl.constexpr = q.dtype.element_ty
    key_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, HEAD_DIM], dtype)
    value_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HEAD_DIM, BLOCK], dtype)
    half_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HALF, HEAD_DIM], dtype)
    q_tiles = tma.make_tensor_descriptor(q, [rows * BLOCK, width], [width, 1], [HALF, HEAD_DIM], half_layout)
    k_tiles = tma.make_tensor_descriptor(
        ring_k, [ring_windows * BLOCK, width], [width, 1], [BLOCK, HEAD_DIM], key_layout
    )
    v_tiles = tma.make_tensor_descriptor(
        ring_v, [ring_windows * width, BLOCK], [BLOCK, 1], [HEAD_DIM, BLOCK], value_layout
    )
    tiles = q_tiles, k_tiles, v_tiles, k_tiles, v_tiles
    # fmt: off
    attend(out, width, line, listed, row, head, ring_windows, score_scale, value_scale, out_scale,
           means + head * HEAD_DIM, tiles, HEAD_DIM, BLOCK, STAGES, LOG2_LARGEST, False)
    # fmt: on

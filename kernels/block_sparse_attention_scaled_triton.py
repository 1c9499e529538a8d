"""Attention over a ring in e4m3 with scales, for sm_80 and newer: `block_sparse_attention_scaled_reference`.

e4m3's bits become 16-bit floats by shifts and one product: the same code where the hardware knows no e4m3.
Keys' scales multiply scores. Values' scales are powers of two: what was summed is kept in units of the last
window's, by the factor that the softmax's new maximum needs anyway.
"""

import triton
import triton.language as tl

from flashvsr_trt.kernels.block_sparse_attention_triton import add_values, weigh_keys
from flashvsr_trt.kernels.scaled_windows import float_of_e4m3


def _four_of_e4m3(shift: int, factor: int, product: str) -> str:
    """PTX: four bytes -> two registers of two 16-bit floats.

    A byte becomes the upper one of its half, its magnitude moves to the right place, and `factor` corrects
    the exponent's bias; subnormal numbers come right by that as well.
    """
    magnitude = 0x7F007F00 >> shift
    return f"""{{
    .reg .b32 low, high, low_sign, high_sign, factor, zero;
    prmt.b32 low, 0, $2, 0x5040;
    prmt.b32 high, 0, $2, 0x7060;
    and.b32 low_sign, low, 0x80008000;
    and.b32 high_sign, high, 0x80008000;
    shr.b32 low, low, {shift};
    shr.b32 high, high, {shift};
    and.b32 low, low, {magnitude};
    and.b32 high, high, {magnitude};
    or.b32 low, low, low_sign;
    or.b32 high, high, high_sign;
    mov.b32 factor, {factor};
    mov.b32 zero, 0x80008000;
    {product} $0, low, factor, zero;
    {product} $1, high, factor, zero;
}}"""


# 2**120 and 2**8; the sum with -0 is there because sm_80 has no product of bfloat16 alone.
TO_BFLOAT16 = tl.constexpr(_four_of_e4m3(4, 0x7B807B80, "fma.rn.bf16x2"))
TO_FLOAT16 = tl.constexpr(_four_of_e4m3(1, 0x5C005C00, "fma.rn.f16x2"))


@triton.jit
def from_e4m3(bits, DTYPE: tl.constexpr):
    """int8 of e4m3's bits -> the numbers, exactly. NaN's bits become 480: a NaN is in the window's scale.

    The assembly is said to be impure, which keeps it where it stands: before the operands' layout, in which
    every warp would convert all of them.
    """
    if tl.bfloat16 == DTYPE:
        return tl.inline_asm_elementwise(
            TO_BFLOAT16, "=r,=r,r", [bits], dtype=tl.bfloat16, is_pure=False, pack=4
        )
    elif tl.float16 == DTYPE:
        return tl.inline_asm_elementwise(
            TO_FLOAT16, "=r,=r,r", [bits], dtype=tl.float16, is_pure=False, pack=4
        )
    else:
        return float_of_e4m3(bits)


@triton.jit(do_not_specialize=["own_first"])
def block_sparse_attention_scaled(
    q,
    k,
    v,
    ring_k,
    ring_v,
    key_scales,
    value_scales,
    index,
    count,
    ring_windows,
    own_first,
    own_windows,
    out,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    SCALE: tl.constexpr,
    MULTIPLIED: tl.constexpr,
):
    """One query window of one head per program, over its listed key windows, KEYS keys at a time.

    `ring_k` and `ring_v` are bytes. Windows own_first .. own_first+own_windows-1 are read of k and v instead,
    after all others. SCALE and MULTIPLIED are those of `block_sparse_attention`.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.num_programs(0)
    heads = tl.num_programs(1)
    width = heads * HEAD_DIM

    channel = head * HEAD_DIM + tl.arange(0, HEAD_DIM)
    token = (row * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    query = tl.load(q + token[:, None] * width + channel[None, :]).to(MULTIPLIED)
    listed = tl.load(count + head * rows + row)
    line = index + (head * rows + row).to(tl.int64) * ring_windows

    # Rows ascend: own windows follow each other, behind `below` others.
    ENTRIES: tl.constexpr = 256
    is_below = tl.zeros([ENTRIES], tl.int32)
    is_own = tl.zeros([ENTRIES], tl.int32)
    for begin in range(0, listed, ENTRIES):
        entry = begin + tl.arange(0, ENTRIES)
        found = tl.load(line + entry, mask=entry < listed, other=ring_windows)
        is_below += (found < own_first).to(tl.int32)
        is_own += ((found >= own_first) & (found < own_first + own_windows)).to(tl.int32)
    below = tl.sum(is_below)
    own = tl.sum(is_own)

    offset = tl.arange(0, KEYS)[:, None] * width + channel[None, :]
    weighted = tl.zeros([BLOCK, HEAD_DIM], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    unit = 1.0
    TILES: tl.constexpr = BLOCK // KEYS
    for tile in range((listed - own) * TILES):
        place = tile // TILES
        window = tl.load(line + place + tl.where(place < below, 0, own))
        first = (window * BLOCK + tile % TILES * KEYS).to(tl.int64) * width
        key_scale = tl.load(key_scales + window * heads + head)
        value_scale = tl.load(value_scales + window * heads + head)
        keys = from_e4m3(tl.load(ring_k + first + offset), MULTIPLIED)
        values = from_e4m3(tl.load(ring_v + first + offset), MULTIPLIED)
        factor = unit / value_scale
        probability, shrink, total, highest = weigh_keys(query, keys, SCALE * key_scale, total, highest)
        weighted = add_values(weighted, shrink * factor, probability, values, MULTIPLIED)
        unit = value_scale
    weighted *= unit
    for tile in range(own * TILES):
        window = tl.load(line + below + tile // TILES) - own_first
        first = (window * BLOCK + tile % TILES * KEYS).to(tl.int64) * width
        keys = tl.load(k + first + offset).to(MULTIPLIED)
        values = tl.load(v + first + offset)
        probability, shrink, total, highest = weigh_keys(query, keys, SCALE, total, highest)
        weighted = add_values(weighted, shrink, probability, values, MULTIPLIED)

    weighted = weighted / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + token[:, None] * width + channel[None, :], weighted.to(out.dtype.element_ty))

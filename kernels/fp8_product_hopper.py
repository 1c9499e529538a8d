"""FP8 products for sm_90: TMA, asynchronous wgmma and specialised warps, written in Gluon.

One kernel makes the feed-forward's first product with GELU, and 3x3 convolutions as implicit products: there
the rows of the first operand are pixels, and TMA reads each pixel's neighbour where it lies. One producer
warp keeps a ring of tiles full; two consumer warp groups sum half of a tile's rows each. A program takes tile
after tile: the first copies for the next are under way while the last one's result is written.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from flashvsr_trt.kernels.block_sparse_attention_hopper import tma_load


@gluon.constexpr_function
def row_layout(rows, columns):
    """A thread has columns/4 neighbouring columns of a row; which rows, is where wgmma leaves them."""
    registers = [[0, 1 << bit] for bit in range((columns // 4).bit_length() - 1)]
    registers += [[8, 0]] + [[row, 0] for row in (64,) if row < rows]
    lanes = [[0, columns // 4], [0, columns // 2], [1, 0], [2, 0], [4, 0]]
    return gl.DistributedLinearLayout(registers, lanes, [[16, 0], [32, 0]], [], [rows, columns])


@gluon.jit
def _place(tile, row_tiles, column_tiles, BAND: gl.constexpr):
    """A tile's row and column: BAND rows of tiles go through all columns together, for the L2 cache."""
    band = BAND * column_tiles
    first = tile // band * BAND
    size = gl.minimum(row_tiles - first, BAND)
    within = tile % band
    return first + within % size, within // size


@gluon.jit
def _box(place, height, width, BOX_HEIGHT: gl.constexpr, BOX_WIDTH: gl.constexpr):
    """Frame, and first row and column, of the place-th box of pixels."""
    across = (width + BOX_WIDTH - 1) // BOX_WIDTH
    down = (height + BOX_HEIGHT - 1) // BOX_HEIGHT
    return place // (across * down), place // across % down * BOX_HEIGHT, place % across * BOX_WIDTH


@gluon.jit
def _gelu(value):
    """GELU's tanh form. The unit's own tanh is wrong by 2**-11, where e4m3 rounds by 2**-4."""
    half = 0.5 * value
    inner = value * (0.7978845608028654 + 0.035677408136300125 * value * value)
    bent = gl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [inner], dtype=gl.float32, is_pure=True, pack=1
    )
    return half * bent + half


@gluon.jit
def _consume(
    half: gl.constexpr,
    result,
    size,
    ring,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    STAGES: gl.constexpr,
    BAND: gl.constexpr,
    BOX_HEIGHT: gl.constexpr,
    BOX_WIDTH: gl.constexpr,
    CONVOLUTION: gl.constexpr,
):
    """Half the rows of each of the program's tiles."""
    out, inverse, row_scale, column_scale, bias, rows, columns = result
    row_tiles, column_tiles, steps, height, width = size
    a, b, ready, free = ring
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 32])
    made: gl.constexpr = row_layout(ROWS, COLUMNS)
    taken = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        row_tile, column_tile = _place(tile, row_tiles, column_tiles, BAND)
        total = gl.zeros([ROWS, COLUMNS], gl.float32, layout)
        for step in range(steps):
            stage = taken % STAGES
            mbarrier.wait(ready.index(stage), (taken // STAGES) & 1)
            weight = b.index(stage).permute((1, 0))
            pending = warpgroup_mma(a.index(2 * stage + half), weight, total, use_acc=step > 0, is_async=True)
            total = warpgroup_mma_wait(1, deps=[pending])
            # The step before is done with.
            mbarrier.arrive(free.index((taken + STAGES - 1) % STAGES), count=1, pred=step > 0)
            taken += 1
        total = warpgroup_mma_wait(0, deps=[total])
        mbarrier.arrive(free.index((taken + STAGES - 1) % STAGES), count=1)

        # The weight's rows lie so that what one thread has of a row are neighbours: no number moves.
        apart = gl.permute(gl.reshape(total, [ROWS, COLUMNS // 8, 4, 2]), (0, 2, 1, 3))
        value = gl.convert_layout(gl.reshape(apart, [ROWS, COLUMNS]), made)
        column = column_tile * COLUMNS + gl.arange(0, COLUMNS, gl.SliceLayout(0, made))
        place = gl.arange(0, ROWS, gl.SliceLayout(1, made))
        if CONVOLUTION:
            frame, top, left = _box(2 * row_tile + half, height, width, BOX_HEIGHT, BOX_WIDTH)
            y = top + place // BOX_WIDTH
            x = left + place % BOX_WIDTH
            row = (frame * height + y) * width + x
            inside = (y < height) & (x < width) & (row < rows)
            value *= gl.expand_dims(gl.load(column_scale + column), 0)
        else:
            row = (2 * row_tile + half) * ROWS + place
            inside = row < rows
            value *= gl.expand_dims(gl.load(row_scale + row, mask=inside, other=0.0), 1)
            value *= gl.expand_dims(gl.load(column_scale + column), 0)
            value += gl.expand_dims(gl.load(bias + column).to(gl.float32), 0)
            value = _gelu(value) * inverse
        target = out + gl.expand_dims(row.to(gl.int64) * columns, 1) + gl.expand_dims(column, 0)
        gl.store(target, value.to(out.dtype.element_ty), mask=gl.expand_dims(inside, 1))


@gluon.jit
def _produce(
    size,
    parts,
    a_tiles,
    b_tiles,
    ring,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    DEPTH: gl.constexpr,
    STAGES: gl.constexpr,
    BAND: gl.constexpr,
    BOX_HEIGHT: gl.constexpr,
    BOX_WIDTH: gl.constexpr,
    CONVOLUTION: gl.constexpr,
):
    """Copies what each step of each tile multiplies, as room in the ring comes free."""
    row_tiles, column_tiles, steps, height, width = size
    a, b, ready, free = ring
    taken = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        row_tile, column_tile = _place(tile, row_tiles, column_tiles, BAND)
        for step in range(steps):
            stage = taken % STAGES
            mbarrier.wait(free.index(stage), ((taken // STAGES) & 1) ^ 1)
            arrived = ready.index(stage)
            mbarrier.expect(arrived, (2 * ROWS + COLUMNS) * DEPTH)
            weight = b.index(stage).reshape([1, COLUMNS // 8, 4, 2, DEPTH])
            tma_load(b_tiles, [column_tile, 0, 0, 0, step * DEPTH], arrived, weight)
            for half in gl.static_range(2):
                if CONVOLUTION:
                    frame, top, left = _box(2 * row_tile + half, height, width, BOX_HEIGHT, BOX_WIDTH)
                    tap = step // parts
                    pixels = a.index(2 * stage + half).reshape([1, BOX_HEIGHT, BOX_WIDTH, DEPTH])
                    corner = [frame, top + tap // 3, left + tap % 3, step % parts * DEPTH]
                    tma_load(a_tiles, corner, arrived, pixels)
                else:
                    corner = [(2 * row_tile + half) * ROWS, step * DEPTH]
                    tma_load(a_tiles, corner, arrived, a.index(2 * stage + half))
            taken += 1


# A clip may have one frame, and what has no pixels none: it is one kernel all the same.
@gluon.jit(do_not_specialize=["frames", "height", "width"])
def fp8_product_hopper(
    x,
    weight,
    row_scale,
    column_scale,
    bias,
    out,
    inverse,
    rows,
    columns,
    depth,
    frames,
    height,
    width,
    channels,
    ROWS: gl.constexpr,
    COLUMNS: gl.constexpr,
    DEPTH: gl.constexpr,
    STAGES: gl.constexpr,
    BAND: gl.constexpr,
    BOX_HEIGHT: gl.constexpr,
    BOX_WIDTH: gl.constexpr,
    CONVOLUTION: gl.constexpr,
):
    """out = GELU(x weight^T * row_scale * column_scale + bias) * inverse, or a convolution * column_scale.

    Args:
        x: [rows, depth] e4m3; of a convolution [frames, height + 2, width + 2, channels].
        weight: [columns, depth] e4m3; of a convolution depth is (row, column, channel) of 3x3 taps.
        row_scale, column_scale: [rows], of a product alone, and [columns], float32.
        bias, inverse: [columns], and that of the result's scale, of a product alone.
        out: [rows, columns]; rows of a convolution are frames * height * width pixels.
        ROWS, COLUMNS, DEPTH: of a consumer's tile, and what a step sums; columns and depth, or channels, are
            multiples of theirs. BOX_HEIGHT * BOX_WIDTH is ROWS.
    """
    dtype: gl.constexpr = x.dtype.element_ty
    row_tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, DEPTH], dtype)
    box_tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([1, BOX_HEIGHT, BOX_WIDTH, DEPTH], dtype)
    column_tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([COLUMNS, DEPTH], dtype)
    # Of a tile's columns 2j + e of quarter t, the order in which wgmma gives them to threads: j, t, e.
    order_tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([1, COLUMNS // 8, 4, 2, DEPTH], dtype)
    column_tiles = columns // COLUMNS
    b_tiles = tma.make_tensor_descriptor(
        weight,
        [column_tiles, COLUMNS // 8, 4, 2, depth],
        [COLUMNS * depth, 2 * depth, COLUMNS // 4 * depth, depth, 1],
        [1, COLUMNS // 8, 4, 2, DEPTH],
        order_tile,
    )
    if CONVOLUTION:
        line = (width + 2) * channels
        a_tiles = tma.make_tensor_descriptor(
            x,
            [frames, height + 2, width + 2, channels],
            [(height + 2) * line, line, channels, 1],
            [1, BOX_HEIGHT, BOX_WIDTH, DEPTH],
            box_tile,
        )
        across = (width + BOX_WIDTH - 1) // BOX_WIDTH
        row_tiles = (frames * across * ((height + BOX_HEIGHT - 1) // BOX_HEIGHT) + 1) // 2
    else:
        a_tiles = tma.make_tensor_descriptor(x, [rows, depth], [depth, 1], [ROWS, DEPTH], row_tile)
        row_tiles = (rows + 2 * ROWS - 1) // (2 * ROWS)
    a = gl.allocate_shared_memory(dtype, [2 * STAGES, ROWS, DEPTH], row_tile)
    b = gl.allocate_shared_memory(dtype, [STAGES, COLUMNS, DEPTH], column_tile)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        mbarrier.init(free.index(stage), count=2)
    size = row_tiles, column_tiles, depth // DEPTH, height, width
    ring = a, b, ready, free
    result = out, inverse, row_scale, column_scale, bias, rows, columns
    # fmt: off
    gl.warp_specialize(
        [
            (_consume, (0, result, size, ring, ROWS, COLUMNS, STAGES, BAND, BOX_HEIGHT, BOX_WIDTH,
                        CONVOLUTION)),
            (_consume, (1, result, size, ring, ROWS, COLUMNS, STAGES, BAND, BOX_HEIGHT, BOX_WIDTH,
                        CONVOLUTION)),
            (_produce, (size, channels // DEPTH, a_tiles, b_tiles, ring, ROWS, COLUMNS, DEPTH, STAGES, BAND,
                        BOX_HEIGHT, BOX_WIDTH, CONVOLUTION)),
        ],
        [4, 1],
        [240, 24],
    )
    # fmt: on

"""How much device memory a stream needs, estimated from the signatures before anything is allocated."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from flashvsr_trt.config.presets import SCALES, SIZE_MULTIPLE
from flashvsr_trt.config.signatures import (
    COMPUTE,
    DTYPE_BYTES,
    Role,
    StreamConfig,
    TensorSpec,
    carried_tensors,
    stage_signatures,
)
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.stage_memory import (
    BYTE_FRAMES,
    FLOAT_FRAMES,
    WHOLE,
    RankShare,
    decode_bytes,
    dit_bytes,
    encode_bytes,
    pixels_of,
    waiting_bytes,
)

GIB = 2**30

ONNXRUNTIME_BYTES = 80 << 20
"""What ONNX Runtime takes for itself and its graphs."""

TORCH_HOST_BYTES = 62 << 20
"""What torch takes of a CPU's memory for itself once its operators run."""

TORCH_GPU_BYTES = 96 << 20
"""What torch's allocator gives to cuBLAS to work in, and what it rounds blocks up by."""

LIBRARY_BYTES = 256 << 20
"""What of a GPU's free memory goes to kernels and libraries once they run, beside torch's allocator."""

HELD_BY_ALLOCATOR = 0.035
"""Of what is needed: torch's allocator holds as much more, in pages and blocks that are used in part."""

POOL_BYTES = (20 + 2) << 20
"""What a pool of torch's allocator may hold in part: a segment of each of its two kinds (`kLargeBuffer` and
`kSmallBuffer` of CUDACachingAllocator)."""

GRAPH_POOLS = 6
"""Pools of stages that run side by side: each has its stream's, and one of its CUDA graphs alone."""

RING_PLACES = 3
"""Layers whose rings are on a GPU where rings wait on the host: one runs, one comes, one leaves."""

EXPORT_BYTES = 512 << 20
"""What an export needs beside the weights: it traces shapes, not values, so the size hardly matters."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes: `weights`, `state` (K/V ring, tails, decoder memory) and what the stages are `working` with."""

    weights: int
    state: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.state + self.working


class Ring(Enum):
    """In what keys and values are kept: the network's dtype; e4m3 with a scale for each window and head, as
    attention reads it; the same, of which a layer at a time is made the network's dtype; or e4m3 as attention
    in FP8 reads it."""

    COMPUTE = 1
    SCALED = 2
    WIDENED = 3
    ATTENDED = 4

    @property
    def has_scales(self) -> bool:
        return self in (Ring.SCALED, Ring.WIDENED)


@dataclass(frozen=True)
class Storage:
    """What of a network stays in memory.

    Attributes:
        weights: bytes.
        compute: the dtype that stages compute in ("bfloat16", ...).
        ring: of K/V rings.
        fp8: whether linear layers multiply e4m3.
        loading: bytes that loading the weights takes at most, before anything else is there.
    """

    weights: int
    compute: str
    ring: Ring = Ring.COMPUTE
    fp8: bool = False
    loading: int = 0


def estimate_memory(
    stream: StreamConfig, storage: Storage, on_gpu: bool = True, share: RankShare = WHOLE
) -> MemoryEstimate:
    """What the torch executor needs for a stream in one piece, or a rank of it on its GPU."""
    compute, units = storage.compute, stream.schedule.first_units
    unit, decoding = waiting_bytes(stream, compute), decode_bytes(stream, compute, on_gpu)
    if on_gpu:
        working = _beside_each_other(stream, storage, decoding, unit, share)
    else:
        stages = encode_bytes(stream, compute), _dit_bytes(stream, storage, units), decoding
        working = max(stages) + units * (unit + BYTE_FRAMES * pixels_of(stream))
    carried = share.rows * tail_bytes(stream, compute) + share.heads * ring_bytes(stream, storage)
    state = int(carried) + _place_bytes(stream, storage, on_gpu)
    needed = _estimate(storage, state, working, GRAPH_POOLS if on_gpu else 0)
    return _with_loading(storage, needed) if on_gpu else needed


def _estimate(storage: Storage, state: int, working: int, pools: int) -> MemoryEstimate:
    """With what torch's allocator holds of a GPU beside them, in so many pools; a CPU has none."""
    if not pools:
        return MemoryEstimate(storage.weights, state, working)
    # Holes stay between weights where others were while they were loaded: too small for maps of features.
    needed = MemoryEstimate(storage.weights, state, working + TORCH_GPU_BYTES + storage.weights * 5 // 64)
    held = max(int(HELD_BY_ALLOCATOR * needed.total), pools * POOL_BYTES)
    return replace(needed, working=needed.working + held)


def _with_loading(storage: Storage, needed: MemoryEstimate) -> MemoryEstimate:
    """At least what loading takes, which is over before anything else is there."""
    return replace(needed, working=max(needed.working, storage.loading - needed.weights - needed.state))


def _beside_each_other(
    stream: StreamConfig, storage: Storage, decoding: int, unit: int, share: RankShare = WHOLE
) -> int:
    """On a GPU stages of different units run side by side, each in the memory of its own CUDA graphs.

    A step of the DiT runs once before it is captured, beside what is captured. Each slot's graph has tokens.
    A rank has a `share` of each stage, and of the DiT at least that of its heads; rank 0 has frames whole.
    """
    compute, slots = storage.compute, stream.preset.attention.ring_slots
    first_units, of_dit = stream.schedule.first_units, max(share.windows, share.heads)
    tokens = waiting_bytes(stream, compute, conditions=False) * share.windows
    encoding, decoded, waiting = (
        part * share.rows for part in (encode_bytes(stream, compute), decoding, unit)
    )
    steady = decoded + 2 * of_dit * _dit_bytes(stream, storage, 1) + waiting + slots * tokens
    first = first_units * waiting + max(decoded, of_dit * _dit_bytes(stream, storage, first_units))
    return int(encoding + max(steady, first)) + 2 * BYTE_FRAMES * pixels_of(stream)


def _dit_bytes(stream: StreamConfig, storage: Storage, units: int) -> int:
    """And a unit's keys and values beside an FP8 ring, and activations that are kept in e4m3 as well."""
    config, tokens = stream.preset.network.dit, stream.geometry.unit_tokens
    narrow = tokens * config.dim * DTYPE_BYTES[storage.compute]
    beside = 2 * narrow if storage.ring.has_scales else units * narrow * (storage.ring is Ring.ATTENDED)
    beside += units * tokens * (config.ffn_dim + config.dim) * storage.fp8
    return dit_bytes(stream, storage.compute, units) + beside


class Parking(Enum):
    """Where what tiles carry is while they wait.

    GPU: all of it there; tiles take turns in one more state, whose addresses CUDA graphs know. Else K/V rings
    are in pinned host memory, but those of as many layers as have room, and come to the GPU layer by layer.
    HOST: the rest waits there as well.
    """

    GPU = 1
    RINGS_ON_HOST = 2
    HOST = 3


def estimate_tiled_memory(
    stream: StreamConfig,
    plan: TilePlan,
    storage: Storage,
    parking: Parking | None,
) -> MemoryEstimate:
    """What the torch executor needs for a stream in tiles. `parking` None: each has a state of its own."""
    needed = _running_in_tiles(stream, plan, storage, parking)
    return needed if parking is None else _with_loading(storage, needed)


def _running_in_tiles(
    stream: StreamConfig, plan: TilePlan, storage: Storage, parking: Parking | None
) -> MemoryEstimate:
    """As `estimate_tiled_memory`, once weights are loaded."""
    tile, count, units = plan.tile_stream(stream), len(plan.tiles), stream.schedule.first_units
    compute = storage.compute
    on_gpu, canvas = parking is not None, plan.canvas[0] * plan.canvas[1]
    rings, waiting = {None: (count, count), Parking.GPU: (count + 1, count + 1)}.get(
        parking, (RING_PLACES / stream.preset.network.dit.layers, 1 if parking is Parking.HOST else count)
    )
    state = int(rings * ring_bytes(tile, storage)) + waiting * tail_bytes(tile, compute)
    state += _place_bytes(tile, storage, on_gpu)
    # Frames are upscaled again to decode them, and blended in float32; a tile's condition is cut out of them.
    decoding = decode_bytes(tile, compute, on_gpu, in_bands=True) + canvas * (BYTE_FRAMES + FLOAT_FRAMES)
    decoding += pixels_of(tile) * BYTE_FRAMES * DTYPE_BYTES[compute]
    if parking is Parking.GPU:
        unit = waiting_bytes(tile, compute)
        working = _beside_each_other(tile, storage, decoding, unit) + canvas * BYTE_FRAMES
    else:
        # Stages run in turn.
        encoding = encode_bytes(tile, compute) + canvas * BYTE_FRAMES
        working = max(encoding, _dit_bytes(tile, storage, units), decoding)
    working += count * units * waiting_bytes(tile, compute, conditions=False)
    blending = 4 * count * pixels_of(tile)
    made = 0 if on_gpu else 2 * units * BYTE_FRAMES * canvas
    pools = {None: 0, Parking.GPU: GRAPH_POOLS}.get(parking, 1)
    return _estimate(storage, state, working + blending + made, pools)


@dataclass(frozen=True)
class TilePlaces:
    """Where a stream's tiles wait on a GPU, and what that takes: `resident` bytes of rings stay there."""

    parking: Parking
    resident: int
    needed: MemoryEstimate
    on_host: int


def place_tiles(stream: StreamConfig, plan: TilePlan, storage: Storage, budget: int) -> TilePlaces:
    """As near as fits within `budget` bytes; with all on the host where nothing does."""
    tile, count = plan.tile_stream(stream), len(plan.tiles)
    rings = count * ring_bytes(tile, storage)
    for parking in Parking:
        needed = _running_in_tiles(stream, plan, storage, parking)
        if _with_loading(storage, needed).total <= budget:
            break
    if parking is Parking.GPU:
        return TilePlaces(parking, 0, _with_loading(storage, needed), 0)
    layers = stream.preset.network.dit.layers
    # Rings are whole pages: the allocator holds no more for them.
    resident = rings * max(0, min(layers, (budget - needed.total) * layers // rings)) // layers
    tails = count * tail_bytes(tile, storage.compute) if parking is Parking.HOST else 0
    needed = replace(needed, state=needed.state + resident)
    return TilePlaces(parking, resident, _with_loading(storage, needed), rings - resident + tails)


def tail_bytes(stream: StreamConfig, compute: str) -> int:
    """Bytes of what encoding and decoding carry."""
    carried = carried_tensors(stage_signatures(stream))
    return _sum(tuple(spec for spec in carried if spec.role is not Role.RING), compute)


def _place_bytes(stream: StreamConfig, storage: Storage, on_gpu: bool) -> int:
    """Where layers of rings that attention does not read run, one after another; a CPU's reads none."""
    if not storage.ring.has_scales or (on_gpu and storage.ring is Ring.SCALED):
        return 0
    return ring_bytes(stream, replace(storage, ring=Ring.COMPUTE)) // stream.preset.network.dit.layers


def ring_bytes(stream: StreamConfig, storage: Storage) -> int:
    """Bytes of a clip's K/V ring."""
    carried = carried_tensors(stage_signatures(stream))
    ring = [spec for spec in carried if spec.role is Role.RING]
    if storage.ring is Ring.COMPUTE:
        return _sum(tuple(ring), storage.compute)
    kept = (spec.shape for spec in ring if spec.dtype == COMPUTE)
    means = [spec for spec in ring if spec.dtype != COMPUTE]
    # A byte a number; of the means' shape, without channels, two scales.
    scales = [2 * spec.size_bytes(storage.compute) // spec.shape[-1] for spec in means]
    return (
        sum(map(math.prod, kept))
        + _sum(tuple(means), storage.compute)
        + sum(scales) * storage.ring.has_scales
    )


def _sum(specs: tuple[TensorSpec, ...], compute: str) -> int:
    return sum(spec.size_bytes(compute) for spec in specs)


def estimate_onnxruntime_memory(
    stream: StreamConfig, plan: TilePlan | None, weights_bytes: int, compute: str
) -> MemoryEstimate:
    """What ONNX Runtime needs on the host: it keeps the state twice, and its arena more than torch takes.

    The factor is of runs of `nano` at 128x128 to 256x192. In tiles conditions are kept as well as tokens, and
    whole frames are upscaled, blended and made bytes in numpy.
    """
    tile, tiles = (plan.tile_stream(stream), len(plan.tiles)) if plan else (stream, 1)
    torch = estimate_memory(tile, Storage(0, compute), on_gpu=False)
    units, attention = stream.schedule.first_units, stream.preset.attention
    scores = 0
    if attention.sparse_ratio is None:
        keys = attention.ring_slots + units
        scores = 2 * stream.preset.network.dit.heads * units * keys * tile.geometry.unit_tokens**2 * 4
    working = torch.working * 43 // 25 + scores + ONNXRUNTIME_BYTES
    if plan:
        made = waiting_bytes(tile, compute, conditions=False) + FLOAT_FRAMES * pixels_of(tile)
        working += (tiles - 1) * units * made
        working += plan.canvas[0] * plan.canvas[1] * (BYTE_FRAMES * (units + 1) + FLOAT_FRAMES)
    return MemoryEstimate(weights_bytes, 2 * tiles * torch.state, working)


def check_fits(
    stream: StreamConfig,
    estimate: Callable[[StreamConfig], MemoryEstimate],
    free: int,
    place: str,
    counted: bool = False,
) -> None:
    """Refuse a stream that would not fit, before anything is allocated.

    Args:
        estimate: what a stream needs; asked for smaller ones too.
        free: bytes that are free.
        place: where ("cuda:0", "this machine").
        counted: whether the stream's own needs are counted to the byte, and not estimated.

    Raises:
        DeviceError: what is needed, what is free, how much is missing, and the largest frame that would fit.
    """
    needed = estimate(stream)
    if needed.total <= free:
        return
    height, width = stream.geometry.target
    raise DeviceError(
        f"{width}x{height} with preset {stream.preset.name} needs{'' if counted else ' about'} "
        f"{needed.total / GIB:.2f} GiB (weights {needed.weights / GIB:.2f}, state {needed.state / GIB:.2f}, "
        f"working {needed.working / GIB:.2f}) and {place} has {free / GIB:.2f} GiB free: "
        f"{(needed.total - free) / GIB:.2f} GiB are missing; {_advice(stream, estimate, free)}"
    )


def _advice(stream: StreamConfig, estimate: Callable[[StreamConfig], MemoryEstimate], free: int) -> str:
    fits = largest_that_fits(stream, estimate, free)
    if fits is None:
        return "no size of this preset fits; use preset nano, or a device with more memory"
    height, width = fits
    scale, given = stream.geometry.scale, (stream.geometry.height, stream.geometry.width)
    advice = f"{width}x{height} would fit: give an input of at most {width // scale}x{height // scale}"
    smaller = [s for s in SCALES if s < scale and given[0] * s <= height and given[1] * s <= width]
    return f"{advice}, or --scale {smaller[-1]}" if smaller else advice


def largest_that_fits(
    stream: StreamConfig, estimate: Callable[[StreamConfig], MemoryEstimate], free: int
) -> tuple[int, int] | None:
    """Height and width of the largest smaller frame, of nearly the same shape, that fits; None if none."""
    height, width = stream.geometry.target
    scale = stream.geometry.scale
    for smaller in range(height - SIZE_MULTIPLE, 0, -SIZE_MULTIPLE):
        narrower = max(1, smaller * width // height // SIZE_MULTIPLE) * SIZE_MULTIPLE
        try:
            geometry = replace(stream.geometry, height=smaller // scale, width=narrower // scale)
        except UsageError:
            return None
        if estimate(replace(stream, geometry=geometry)).total <= free:
            return smaller, narrower
    return None

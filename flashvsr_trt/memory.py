"""How much device memory a stream needs, estimated from the signatures before anything is allocated."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from flashvsr_trt.config.presets import SCALES, SIZE_MULTIPLE, UNIT_FRAMES, WINDOW_TOKENS
from flashvsr_trt.config.signatures import (
    COMPUTE,
    DTYPE_BYTES,
    ENCODE,
    PIXEL_CHANNELS,
    Role,
    StreamConfig,
    TensorSpec,
    carried_tensors,
    stage_signatures,
)
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError, UsageError

GIB = 2**30

ONNXRUNTIME_BYTES = 64 << 20
"""What ONNX Runtime takes for itself and its graphs."""

TORCH_HOST_BYTES = 96 << 20
"""What torch takes of a CPU's memory for itself once its operators run."""

HELD_BY_ALLOCATOR = 0.1
"""Of what tiles need on a GPU: torch's allocator holds as much beside it, in blocks that fit nothing.

Under caps of 8, 12 and 24 GiB an H100 wanted 1.06 to 1.08 of the rest (`bench/results/h100/tiles.md`).
"""

EXPORT_BYTES = 512 << 20
"""What an export needs beside the weights: it traces shapes, not values, so the size hardly matters."""

ALONE_PIXELS = 2**18
"""Feature maps this large are decoded frame by frame: one fills a GPU, its past is the one before as it lies,
and at the output's size there are two frames' activations and not a whole unit's."""

RING_PLACES = 3
"""Layers whose rings are on a GPU where rings wait on the host: one runs, one comes, one leaves."""

BAND_PIXELS = 2**18
"""Tiles leave the decoder in bands of rows of so many pixels: at the output's size maps are widest."""

FRAGMENTS = 1.05
"""What torch's allocator keeps of working memory, over what is in use: measured on an H100 at 1280x720."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes: `weights`, `state` (K/V ring, tails, decoder memory) and what the stages are `working` with."""

    weights: int
    state: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.state + self.working


def estimate_memory(
    stream: StreamConfig,
    parameters: int,
    compute: str,
    kv_cache: str = "auto",
    frame_by_frame: bool = False,
) -> MemoryEstimate:
    """What the torch executor needs with `parameters` weights in dtype `compute` ("bfloat16", ...).

    `frame_by_frame`: the decoder runs so even where frames are small. `kv_cache`: of `request.KV_CACHES`.
    """
    first_units = stream.schedule.first_units
    signatures = stage_signatures(stream)
    # On a GPU the stages of different units run side by side. The first step is over by then.
    decoding = _decode_bytes(stream, compute, frame_by_frame)
    steady = (_encode_bytes(stream, compute), _dit_bytes(stream, compute, 1), decoding)
    working = int(FRAGMENTS * max(sum(steady), _dit_bytes(stream, compute, first_units)))
    state = _sum(carried_tensors(signatures), compute)
    if kv_cache != "auto":
        # And the place where layers run, one after another.
        ring = ring_bytes(stream, compute)
        state += ring_bytes(stream, compute, kv_cache) - ring + ring // stream.preset.network.dit.layers
    return MemoryEstimate(
        weights=parameters * DTYPE_BYTES[compute],
        state=state,
        # The first step's conditions and tokens wait together while the stages run.
        working=working + first_units * _sum(signatures[ENCODE].outputs, compute),
    )


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
    parameters: int,
    compute: str,
    parking: Parking | None,
    kv_cache: str = "auto",
) -> MemoryEstimate:
    """What the torch executor needs for a stream in tiles. `parking` None: each has a state of its own."""
    tile, count, first_units = plan.tile_stream(stream), len(plan.tiles), stream.schedule.first_units
    one = estimate_memory(tile, parameters, compute, kv_cache, frame_by_frame=True)
    ring = ring_bytes(tile, compute, kv_cache)
    tails = _sum(carried_tensors(stage_signatures(tile)), compute) - ring_bytes(tile, compute)
    place = one.state - tails - ring
    rings, waiting = {None: (count, count), Parking.GPU: (count + 1, count + 1)}.get(
        parking, (RING_PLACES / stream.preset.network.dit.layers, 1 if parking is Parking.HOST else count)
    )
    tokens = count * first_units * _sum(stage_signatures(tile)[ENCODE].outputs[1:], compute)
    working = one.working
    if parking in (Parking.RINGS_ON_HOST, Parking.HOST):
        # Stages run in turn.
        working = max(
            _encode_bytes(tile, compute),
            _dit_bytes(tile, compute, first_units),
            _decode_bytes(tile, compute, True),
        )
    working += tokens + _whole_frames_bytes(plan)
    needed = MemoryEstimate(one.weights, int(rings * ring) + waiting * tails + place, working)
    return replace(needed, working=working + int(HELD_BY_ALLOCATOR * needed.total)) if parking else needed


@dataclass(frozen=True)
class TilePlaces:
    """Where a stream's tiles wait on a GPU, and what that takes: `resident` bytes of rings stay there."""

    parking: Parking
    resident: int
    needed: MemoryEstimate
    on_host: int


def place_tiles(
    stream: StreamConfig, plan: TilePlan, parameters: int, compute: str, kv_cache: str, budget: int
) -> TilePlaces:
    """As near as fits within `budget` bytes; with all on the host where nothing does."""
    tile, count = plan.tile_stream(stream), len(plan.tiles)
    rings = count * ring_bytes(tile, compute, kv_cache)
    for parking in Parking:
        needed = estimate_tiled_memory(stream, plan, parameters, compute, parking, kv_cache)
        if needed.total <= budget:
            break
    if parking is Parking.GPU:
        return TilePlaces(parking, 0, needed, 0)
    layers = stream.preset.network.dit.layers
    staying = max(0, min(layers, (budget - needed.total) * layers // rings))
    resident = rings * staying // layers
    tails = count * (needed.state - rings * RING_PLACES // (layers * count)) if parking is Parking.HOST else 0
    needed = replace(needed, state=needed.state + resident)
    return TilePlaces(parking, resident, needed, rings - resident + tails)


def ring_bytes(stream: StreamConfig, compute: str, kv_cache: str = "auto") -> int:
    """Bytes of a clip's K/V ring."""
    carried = carried_tensors(stage_signatures(stream))
    ring = [spec for spec in carried if spec.role is Role.RING]
    if kv_cache == "auto":
        return _sum(tuple(ring), compute)
    kept = (spec.shape for spec in ring if spec.dtype == COMPUTE)
    means = [spec for spec in ring if spec.dtype != COMPUTE]
    # A byte a number; of the means' shape, without channels, two scales.
    scales = (2 * spec.size_bytes(compute) // spec.shape[-1] for spec in means)
    return sum(map(math.prod, kept)) + _sum(tuple(means), compute) + sum(scales)


def _whole_frames_bytes(plan: TilePlan) -> int:
    """Upscaled bytes of a unit, float32 frames in which tiles are blended, bytes that leave, and weights."""
    frame = 3 * plan.canvas[0] * plan.canvas[1]
    one_at_a_time = 6 * 4 * frame
    weights = 4 * len(plan.tiles) * plan.tile[0] * plan.tile[1]
    return UNIT_FRAMES * frame * (1 + 4 + 2) + one_at_a_time + weights


def _sum(specs: tuple[TensorSpec, ...], compute: str) -> int:
    return sum(spec.size_bytes(compute) for spec in specs)


def _encode_bytes(stream: StreamConfig, compute: str) -> int:
    """The upscaler's integer frames, or the stacked input of the larger convolution."""
    pixels = stream.geometry.target[0] * stream.geometry.target[1]
    upscaling = 4 * 3 * UNIT_FRAMES * pixels * 4
    hidden = max(PIXEL_CHANNELS, stream.preset.network.projector.hidden[0])
    stacked = 3 * UNIT_FRAMES * 2 * hidden * (stream.geometry.unit_tokens // 2) * DTYPE_BYTES[compute]
    return upscaling + stacked


def _dit_bytes(stream: StreamConfig, compute: str, units: int) -> int:
    """The activations of one layer; new K/V goes straight into the ring."""
    config, geometry = stream.preset.network.dit, stream.geometry
    tokens = units * geometry.unit_tokens
    activations = tokens * (2 * config.ffn_dim + 12 * config.dim) * DTYPE_BYTES[compute]
    key_units = stream.preset.attention.ring_slots + units
    keys = 2 * key_units * geometry.unit_tokens * config.dim * DTYPE_BYTES[compute]
    scores = config.heads * WINDOW_TOKENS * key_units * geometry.unit_tokens * 4
    blocks = 4 * config.heads * units * geometry.unit_windows**2 * key_units * 8
    return activations + keys + scores + blocks


def _decode_bytes(stream: StreamConfig, compute: str, frame_by_frame: bool) -> int:
    """Three full-resolution feature maps of a unit, or of two frames and what these grow from; its pixels."""
    pixels = stream.geometry.target[0] * stream.geometry.target[1]
    frames = 3 if pixels // 4 >= ALONE_PIXELS or frame_by_frame else UNIT_FRAMES
    features = stream.preset.network.decoder.channels[2]
    return pixels * (frames * 3 * features * DTYPE_BYTES[compute] + UNIT_FRAMES * 6 * 3 * 4)


def estimate_onnxruntime_memory(stream: StreamConfig, weights_bytes: int, compute: str) -> MemoryEstimate:
    """What ONNX Runtime needs on the host: it keeps the state twice, and dense attention's scores whole.

    The factors are of runs at 256x256 to 1024x768, whose peak is within a tenth of this but for the smallest.
    """
    torch = estimate_memory(stream, 0, compute)
    units, attention = stream.schedule.first_units, stream.preset.attention
    scores = 0
    if attention.sparse_ratio is None:
        tokens, keys = units, attention.ring_slots + units
        scores = 2 * stream.preset.network.dit.heads * tokens * keys * stream.geometry.unit_tokens**2 * 4
    working = torch.working * 6 // 5 + scores + ONNXRUNTIME_BYTES
    return MemoryEstimate(weights_bytes, 2 * torch.state, working)


def estimate_onnxruntime_tiled_memory(
    stream: StreamConfig, plan: TilePlan, weights_bytes: int, compute: str
) -> MemoryEstimate:
    """As `estimate_onnxruntime_memory`, for a stream in tiles: conditions are kept as well as tokens."""
    tile = plan.tile_stream(stream)
    one, count, first_units = (
        estimate_onnxruntime_memory(tile, weights_bytes, compute),
        len(plan.tiles),
        stream.schedule.first_units,
    )
    made = _sum(stage_signatures(tile)[ENCODE].outputs, compute)
    working = one.working + (count - 1) * first_units * made + _whole_frames_bytes(plan)
    return MemoryEstimate(one.weights, count * one.state, working)


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

"""How much a stream's engines take of a GPU: counted to the byte before anything is allocated."""

from collections.abc import Mapping
from dataclasses import replace

from flashvsr_trt.config.signatures import DECODE, StreamConfig, stage_of
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.engines.plan import SegmentPlan
from flashvsr_trt.memory import MemoryEstimate, check_fits
from flashvsr_trt.runtime.tensorrt.arena import place_by_lifetime
from flashvsr_trt.runtime.tensorrt.clip_memory import clip_layout, ring_layout
from flashvsr_trt.stage_memory import decode_bytes, dit_bytes, encode_bytes


def arena_sizes(graphs: Mapping[str, int]) -> dict[bool, int]:
    """Bytes of the two arenas by whether it is decoding's: encoding and the DiT take turns in the other.

    Args:
        graphs: bytes that each graph needs.
    """
    return {
        decodes: max(size for graph, size in graphs.items() if (stage_of(graph) == DECODE) == decodes)
        for decodes in (False, True)
    }


def memory_before_loading(
    stream: StreamConfig, compute: str, plans: Mapping[str, SegmentPlan], engine_bytes: int
) -> MemoryEstimate:
    """What is sure to be needed before engines are loaded; these have scratch memory of their own as well."""
    carried = arena_sizes({graph: place_by_lifetime(plan).size for graph, plan in plans.items()})
    return MemoryEstimate(engine_bytes, clip_layout(stream, compute).size, sum(carried.values()))


def estimate_before_building(
    stream: StreamConfig, plan: TilePlan | None, weights: int, compute: str
) -> MemoryEstimate:
    """What engines that are not there yet will need; tiles' K/V rings wait on the host, but for one.

    Weights and what is carried are counted. Working memory is what torch's stages take, encoding and the DiT
    in turn and decoding beside them.
    """
    tile = plan.tile_stream(stream) if plan else stream
    units = stream.schedule.first_units
    stages = encode_bytes(tile, compute), dit_bytes(tile, compute, units)
    working = max(stages) + decode_bytes(tile, compute, on_gpu=True)
    own = clip_layout(tile, compute, with_ring=False).size
    state = (len(plan.tiles) if plan else 1) * own + ring_layout(tile, compute).size
    return MemoryEstimate(weights, state, working)


def check_device_memory(
    stream: StreamConfig, compute: str, needed: MemoryEstimate, free: int, device: str
) -> None:
    """Refuse a stream that does not fit. Working memory is taken to shrink with the frame's area.

    Args:
        needed: what is still to be allocated: engines with their weights, a clip, and working memory.
        free: bytes that are free on the device.

    Raises:
        DeviceError: as `check_fits`.
    """
    pixels = stream.geometry.target[0] * stream.geometry.target[1]

    def at_size(smaller: StreamConfig) -> MemoryEstimate:
        if smaller is stream:
            return needed
        height, width = smaller.geometry.target
        working = needed.working * height * width // pixels
        return replace(needed, state=clip_layout(smaller, compute).size, working=working)

    check_fits(stream, at_size, free, device, counted=True)

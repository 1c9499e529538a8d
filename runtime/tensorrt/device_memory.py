"""How much a stream's engines take of a GPU: counted to the byte before anything is allocated."""

from collections.abc import Mapping
from dataclasses import replace

from flashvsr_trt.config.signatures import DECODE, StreamConfig, stage_of
from flashvsr_trt.engines.plan import SegmentPlan
from flashvsr_trt.memory import MemoryEstimate, check_fits
from flashvsr_trt.runtime.tensorrt.arena import place_by_lifetime
from flashvsr_trt.runtime.tensorrt.clip_memory import clip_layout


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

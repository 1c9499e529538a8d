"""Whether a stream's engines fit a GPU: counted to the byte before anything is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flashvsr_trt.config.presets import SCALES, SIZE_MULTIPLE
from flashvsr_trt.config.signatures import DECODE, StreamConfig
from flashvsr_trt.engines.plan import SegmentPlan
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.runtime.tensorrt.arena import aligned, place_by_lifetime
from flashvsr_trt.runtime.tensorrt.bound_graph import GraphMemory
from flashvsr_trt.runtime.tensorrt.clip_memory import clip_layout
from flashvsr_trt.runtime.tensorrt.engine_runner import Engine, EngineRunner

GIB = 2**30


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes: `engines` with their weights, `clip` (ring, state, buffers), `working` memory of the stages."""

    engines: int
    clip: int
    working: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.engines + self.clip + self.working


def graph_memory(plan: SegmentPlan, runner: EngineRunner, engines: Mapping[str, Engine]) -> GraphMemory:
    """What one graph needs of its stage's arena, once its engines are loaded."""
    return GraphMemory(
        carried=place_by_lifetime(plan),
        kernel_scratch=aligned(max((runner.scratch_bytes(plan, step) for step in plan.kernels), default=0)),
        engine_scratch=aligned(max((engines[name].memory_bytes for name in plan.engines), default=0)),
    )


def arena_sizes(graphs: Mapping[str, int]) -> dict[bool, int]:
    """Bytes of the two arenas by whether it is decoding's: encoding and the DiT take turns in the other.

    Args:
        graphs: bytes that each graph needs.
    """
    return {
        decodes: max(size for graph, size in graphs.items() if (graph == DECODE) == decodes)
        for decodes in (False, True)
    }


def memory_before_loading(
    stream: StreamConfig, compute: str, plans: Mapping[str, SegmentPlan], engine_bytes: int
) -> DeviceMemory:
    """What is sure to be needed before engines are loaded; these have scratch memory of their own as well."""
    carried = arena_sizes({graph: place_by_lifetime(plan).size for graph, plan in plans.items()})
    return DeviceMemory(engine_bytes, clip_layout(stream, compute).size, sum(carried.values()))


def check_device_memory(
    stream: StreamConfig, compute: str, needed: DeviceMemory, free: int, device: str
) -> None:
    """Refuse a stream that does not fit.

    Args:
        needed: what is still to be allocated.
        free: bytes that are free on the device.

    Raises:
        DeviceError: how much is missing, and the largest frame of the preset that would fit.
    """
    if needed.total <= free:
        return
    height, width = stream.geometry.target
    raise DeviceError(
        f"{width}x{height} with preset {stream.preset.name} needs {needed.total / GIB:.2f} GiB (engines "
        f"{needed.engines / GIB:.2f}, ring and buffers {needed.clip / GIB:.2f}, working "
        f"{needed.working / GIB:.2f}) and {device} has {free / GIB:.2f} GiB free: "
        f"{(needed.total - free) / GIB:.2f} GiB are missing; {_advice(stream, compute, needed, free)}"
    )


def _advice(stream: StreamConfig, compute: str, needed: DeviceMemory, free: int) -> str:
    fits = largest_that_fits(stream, compute, needed, free)
    if fits is None:
        return "no size of this preset fits; use preset nano, or a GPU with more memory"
    height, width = fits
    scale = stream.geometry.scale
    advice = f"{width}x{height} would fit: give an input of at most {width // scale}x{height // scale}"
    smaller = [other for other in SCALES if other < scale]
    sides = [(side * other <= limit) for other in smaller for side, limit in _sides(stream, fits)]
    return f"{advice}, or --scale {smaller[-1]}" if sides and all(sides) else advice


def _sides(stream: StreamConfig, fits: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return (stream.geometry.height, fits[0]), (stream.geometry.width, fits[1])


def largest_that_fits(
    stream: StreamConfig, compute: str, needed: DeviceMemory, free: int
) -> tuple[int, int] | None:
    """Height and width of the largest smaller frame, of nearly the same shape, that fits; None if none does.

    Working memory is taken to shrink with the frame's area.
    """
    height, width = stream.geometry.target
    for smaller in range(height - SIZE_MULTIPLE, 0, -SIZE_MULTIPLE):
        narrower = max(1, smaller * width // height // SIZE_MULTIPLE) * SIZE_MULTIPLE
        scale = stream.geometry.scale
        try:
            geometry = replace(stream.geometry, height=smaller // scale, width=narrower // scale)
        except UsageError:
            return None
        clip = clip_layout(replace(stream, geometry=geometry), compute).size
        working = needed.working * smaller * narrower // (height * width)
        if needed.engines + clip + working <= free:
            return smaller, narrower
    return None

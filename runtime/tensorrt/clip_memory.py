"""The device memory of one clip: state, ring, and what goes from stage to stage, in one block.

A unit in flight has a *place*: buffers for its frames, condition, tokens, noise, latent and decoded frames.
There is one place more than the first DiT step takes units, so a unit is decoded while the next is encoded.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from flashvsr_trt.config.signatures import (
    DECODE,
    DIT,
    DIT_FIRST,
    ENCODE,
    StreamConfig,
    TensorSpec,
    stage_signatures,
)
from flashvsr_trt.runtime.tensorrt.arena import Layout, place_side_by_side
from flashvsr_trt.runtime.tensorrt.device import Device

DIT_INPUTS = ("noise", "time_cos", "time_sin", "slot_valid")
"""What the host sends to every DiT step."""

ENCODE_INPUTS = ("frames", "first")
"""What the host sends for every unit."""


def unit_places(stream: StreamConfig) -> int:
    """How many units can be in flight. Even, so that a place always has the same half of the state."""
    return stream.schedule.first_units + 1


def buffer_name(graph: str, tensor: str, place: int | None = None) -> str:
    """How a buffer is called: the graph's tensor, of one place where it has several."""
    return f"{graph}.{tensor}" + ("" if place is None else f"@{place}")


def state_name(tensor: str, half: int) -> str:
    """One of a state tensor's two buffers: a stage reads one and writes the other."""
    return f"state.{tensor}@{half}"


def clip_buffers(stream: StreamConfig) -> dict[str, TensorSpec]:
    """Every buffer of a clip. A ring tensor has its own name, and is one buffer."""
    signatures = stage_signatures(stream)
    buffers = {}
    for spec in signatures[ENCODE].state + signatures[DECODE].state:
        buffers |= {state_name(spec.name, half): spec for half in range(2)}
    buffers |= {spec.name: spec for spec in signatures[DIT].inputs if is_ring(spec.name)}
    for place in range(unit_places(stream)):
        for graph, spec in _unit_tensors(stream):
            buffers[buffer_name(graph, spec.name, place)] = spec
    if DIT_FIRST in signatures:
        first = signatures[DIT_FIRST]
        for spec in (*first.inputs, *first.outputs):
            if spec.name in (*DIT_INPUTS, "tokens", "latent"):
                buffers[buffer_name(DIT_FIRST, spec.name)] = spec
    return buffers


def clip_layout(stream: StreamConfig, compute: str) -> Layout:
    """Where each buffer is in the clip's block, and the block's exact size."""
    return place_side_by_side({name: spec.size_bytes(compute) for name, spec in clip_buffers(stream).items()})


def is_ring(name: str) -> bool:
    """Whether a tensor is part of the K/V ring."""
    return name.startswith("ring_")


def _unit_tensors(stream: StreamConfig) -> Iterator[tuple[str, TensorSpec]]:
    """What a unit leaves on its way, with the graph that it is an input or output of."""
    signatures = stage_signatures(stream)
    for spec in (*signatures[ENCODE].inputs, *signatures[ENCODE].outputs):
        yield ENCODE, spec
    for spec in (*signatures[DIT].inputs, signatures[DIT].outputs[0]):
        if spec.name in (*DIT_INPUTS, "latent"):
            yield DIT, spec
    yield DECODE, signatures[DECODE].outputs[0]


class ClipMemory:
    """The block on the device, zeroed, and pinned host memory for all that is copied.

    Raises:
        DeviceError: the device has no room for it.
    """

    def __init__(self, device: Device, stream: StreamConfig, compute: str, cuda_stream: int) -> None:
        self.device = device
        self.specs = clip_buffers(stream)
        self.compute = compute
        layout = clip_layout(stream, compute)
        self.block, self.block_bytes = device.allocate(layout.size), layout.size
        self.addresses: Mapping[str, int] = {
            name: self.block + offset for name, offset in layout.offsets.items()
        }
        self.pinned = {name: self._pin(name) for name in self.specs if _is_copied(name)}
        self.zero(cuda_stream)

    def zero(self, cuda_stream: int) -> None:
        """All of the block zero, once this returns."""
        self.device.zero(self.block, self.block_bytes, cuda_stream)
        self.device.synchronize(cuda_stream)

    def part(self, name: str, first_row: int) -> int:
        """Address of a row of a buffer's first axis."""
        spec = self.specs[name]
        return self.addresses[name] + first_row * (spec.size_bytes(self.compute) // spec.shape[0])

    def size(self, name: str) -> int:
        """Bytes of a buffer."""
        return self.specs[name].size_bytes(self.compute)

    def release(self) -> None:
        """Give everything back; nothing may be using it."""
        for array in self.pinned.values():
            self.device.free_pinned(array)
        self.pinned.clear()
        self.device.free(self.block)

    def _pin(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        return self.device.allocate_pinned(spec.shape, np.dtype(spec.dtype))


def _is_copied(name: str) -> bool:
    graph, _, tensor = name.partition("@")[0].partition(".")
    inputs = {ENCODE: ENCODE_INPUTS, DIT: DIT_INPUTS, DIT_FIRST: DIT_INPUTS, DECODE: ("frames",)}
    return tensor in inputs.get(graph, ())

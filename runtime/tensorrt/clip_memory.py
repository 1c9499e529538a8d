"""The device memory of one clip: state, ring, and what goes from stage to stage, in one block.

A unit in flight has a *place*: buffers for its frames, condition, tokens, noise, latent and decoded frames.
There is one place more than the first DiT step takes units, so a unit is decoded while the next is encoded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flashvsr_trt.config.signatures import (
    DECODE,
    DIT_FIRST,
    Role,
    StreamConfig,
    TensorSpec,
    carried_tensors,
    stage_of,
    stage_signatures,
)
from flashvsr_trt.runtime.tensorrt.arena import Layout, place_side_by_side
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice


@dataclass(frozen=True)
class ClipBuffer:
    """A buffer of the block. `copied`: whether it comes from the host or goes there."""

    spec: TensorSpec
    copied: bool = False


def unit_places(stream: StreamConfig) -> int:
    """How many units can be in flight. Even, so that a place always has the same half of the state."""
    return stream.schedule.first_units + 1


def buffer_name(graph: str, tensor: str, place: int | None = None) -> str:
    """How a buffer is called: the graph's tensor, of one place where it has several."""
    return f"{graph}.{tensor}" + ("" if place is None else f"@{place}")


def state_name(tensor: str, half: int) -> str:
    """One of a state tensor's two buffers: a stage reads one and writes the other."""
    return f"state.{tensor}@{half}"


def clip_buffers(stream: StreamConfig) -> dict[str, ClipBuffer]:
    """Every buffer of a clip. A ring tensor has its own name, and is one buffer."""
    signatures = stage_signatures(stream)
    buffers = {}
    for spec in carried_tensors(signatures):
        state = spec.role is Role.STATE
        names = [state_name(spec.name, half) for half in range(2)] if state else [spec.name]
        buffers |= dict.fromkeys(names, ClipBuffer(spec))
    for graph, signature in signatures.items():
        # What another stage makes is read in its buffer, but the first step's inputs are gathered.
        own = [spec for spec in signature.inputs if spec.from_host or (graph == DIT_FIRST and spec.made_by)]
        for place in [None] if graph == DIT_FIRST else range(unit_places(stream)):
            for spec in (*own, *signature.results):
                copied = spec.from_host or (stage_of(graph) == DECODE and spec.role is Role.OUTPUT)
                buffers[buffer_name(graph, spec.name, place)] = ClipBuffer(spec, copied)
    return buffers


def clip_layout(stream: StreamConfig, compute: str, with_ring: bool = True) -> Layout:
    """Where each buffer is in the clip's block, and the block's exact size."""
    specs = {name: buffer.spec for name, buffer in clip_buffers(stream).items()}
    kept = {name: spec for name, spec in specs.items() if with_ring or spec.role is not Role.RING}
    return place_side_by_side({name: spec.size_bytes(compute) for name, spec in kept.items()})


def ring_layout(stream: StreamConfig, compute: str) -> Layout:
    """Where each tensor of the K/V ring is in a block of its own."""
    ring = [spec for spec in carried_tensors(stage_signatures(stream)) if spec.role is Role.RING]
    return place_side_by_side({spec.name: spec.size_bytes(compute) for spec in ring})


class ClipMemory:
    """The block on the device, zeroed, and pinned host memory for all that is copied.

    Args:
        ring: addresses of the K/V ring's tensors where these are not in the block.

    Raises:
        DeviceError: the device has no room for it.
    """

    def __init__(
        self,
        device: CudaDevice,
        stream: StreamConfig,
        compute: str,
        cuda_stream: int,
        ring: Mapping[str, int] | None = None,
    ) -> None:
        self.device = device
        buffers = clip_buffers(stream)
        self.specs = {name: buffer.spec for name, buffer in buffers.items()}
        self.compute = compute
        layout = clip_layout(stream, compute, with_ring=ring is None)
        self.block, self.block_bytes = device.allocate(layout.size), layout.size
        self.addresses: Mapping[str, int] = {
            name: self.block + offset for name, offset in layout.offsets.items()
        } | dict(ring or {})
        copied = {name: buffer.spec for name, buffer in buffers.items() if buffer.copied}
        self.pinned = {
            name: device.allocate_pinned(spec.shape, np.dtype(spec.dtype)) for name, spec in copied.items()
        }
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
        return self.specs[name].size_bytes(self.compute)

    def release(self) -> None:
        """Give everything back; nothing may be using it."""
        for array in self.pinned.values():
            self.device.free_pinned(array)
        self.pinned.clear()
        self.device.free(self.block)

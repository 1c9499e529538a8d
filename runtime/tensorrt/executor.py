"""The executor of TensorRT and TensorRT-RTX engines. No torch.

Four streams: `upload`, `compute` (encoding and the DiT), `decoding`, `download`. Only events order them, so
that a unit is decoded and copied while the next one is encoded and denoised. State and the K/V ring are bound
where they lie: the address of a ring's slot is that of the DiT's new keys.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import DECODE, DIT, DIT_FIRST, ENCODE, next_name
from flashvsr_trt.engines.plan import SegmentPlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.tensorrt.clip_memory import (
    DIT_INPUTS,
    ENCODE_INPUTS,
    ClipMemory,
    buffer_name,
    clip_layout,
    is_ring,
    state_name,
)
from flashvsr_trt.runtime.tensorrt.device import Device
from flashvsr_trt.runtime.tensorrt.device_memory import DeviceMemory, check_device_memory
from flashvsr_trt.runtime.tensorrt.engine_runner import EngineRunner
from flashvsr_trt.runtime.tensorrt.loaded_graphs import LoadedGraphs
from flashvsr_trt.runtime.tensorrt.run_profile import RunProfile
from flashvsr_trt.runtime.tensorrt.stage_timer import StageTimer
from flashvsr_trt.runtime.tensorrt.state import ClipState, DecodingFrames, UnitPlace, UnitTensor


class TensorRTExecutor:
    """Runs a stream's engines. Implements `runtime.executor.OverlappingExecutor`.

    Args:
        bundle: that the engines were made of.
        plans: graph name -> the engines and kernels that run it.
        runner: loads and runs them.
        cuda_graphs: replay steps that come again; not while layers are timed.
        profile: records stages and layers.
        facts: added to `describe`.

    Raises:
        DeviceError: the stream does not fit the device; says how much is missing and what would fit.
        EngineError: an engine is damaged or made for something else.
    """

    def __init__(
        self,
        bundle: Bundle,
        plans: Mapping[str, SegmentPlan],
        runner: EngineRunner,
        device: Device,
        cuda_graphs: bool = True,
        profile: RunProfile | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle, self.stream, self.plans = bundle, bundle.stream, plans
        self.runner, self.device, self.profile = runner, device, profile
        self.cuda_graphs = cuda_graphs and profile is None
        self.facts = dict(facts or {})
        device.activate()
        self.upload, self.compute, self.decoding, self.download = (device.new_stream() for _ in range(4))
        self.streams = (self.compute, self.upload, self.decoding, self.download)
        streams = {graph: self.decoding if graph == DECODE else self.compute for graph in plans}
        free = device.free_and_total_memory()[0]
        self.graphs = LoadedGraphs(plans, runner, streams, profile and profile.add_layer)
        sizes = self.graphs.arena_sizes
        left = device.free_and_total_memory()[0]
        clip = clip_layout(self.stream, bundle.compute).size
        self.needed = DeviceMemory(free - left, clip, sum(sizes.values()))
        try:
            check_device_memory(self.stream, bundle.compute, self.needed, free, device.name)
        except DeviceError:
            _release(device, self.streams, (), self.graphs)
            raise
        self.arenas = {decodes: device.allocate(size) if size else 0 for decodes, size in sizes.items()}
        self.graphs.use_arenas(self.arenas)
        self.first_step_done = device.new_event()
        self.before_first_step: weakref.WeakSet[ClipState] = weakref.WeakSet()
        self.timer = StageTimer(device, self.compute, profile and profile.add_span)
        self.kernel_calls: Counter[str] = Counter()
        arenas = tuple(self.arenas.values())
        weakref.finalize(self, _release, device, self.streams, arenas, self.graphs).atexit = False

    def new_state(self) -> ClipState:
        """Zeroed state of a fresh clip. Raises DeviceError if it does not fit beside those there are."""
        self.device.activate()
        if DIT_FIRST in self.plans and not self.graphs.is_loaded(DIT_FIRST):
            self.graphs.load(DIT_FIRST)
        state = ClipState(self, self.device, self.stream, self.bundle.compute, self.streams, self.cuda_graphs)
        self.before_first_step.add(state)
        return state

    def reset_state(self, state: ClipState) -> None:
        """See `Executor.reset_state`."""
        self.device.activate()
        for stream in self.streams:
            self.device.synchronize(stream)
        state.reset(self.compute)

    def encode(self, frames: np.ndarray, first: bool, state: ClipState) -> tuple[UnitTensor, UnitTensor]:
        """See `Executor.encode`."""
        device, place = self.device, state.next_place()
        device.activate()
        self._unload_first_step()
        arrays = dict(zip(ENCODE_INPUTS, (frames, np.array(first)), strict=True))
        names = {name: place.buffer(ENCODE, name) for name in arrays}
        self._send(arrays, names, state.memory, place.frames_uploaded, place.encoded)
        device.wait(self.compute, place.frames_uploaded)
        # The place's condition is free once the unit before in it was decoded.
        device.wait(self.compute, place.decoded)
        edge = self._edge(ENCODE, state.memory, partial(place.buffer, ENCODE), place.half)
        self._run(ENCODE, (ENCODE, place.number), edge, self.compute, state)
        device.record(place.encoded, self.compute)
        return UnitTensor(place, "condition"), UnitTensor(place, "tokens")

    def dit(
        self,
        noise: np.ndarray,
        tokens: list[UnitTensor],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: ClipState,
    ) -> list[UnitTensor]:
        """See `Executor.dit`. The new K/V is written into the step's slots of the ring."""
        device, memory = self.device, state.memory
        device.activate()
        places = [unit.place for unit in tokens]
        graph = DIT if len(places) == 1 else DIT_FIRST
        name_of = places[0].buffer if graph == DIT else buffer_name
        events = places[0].step if graph == DIT else state.first_step
        arrays = dict(zip(DIT_INPUTS, (noise, *rope, step.valid), strict=True))
        names = {name: name_of(graph, name) for name in arrays}
        self._send(arrays, names, memory, events.uploaded, events.denoised)
        device.wait(self.compute, events.uploaded)
        if graph == DIT:
            token_buffer = places[0].buffer(ENCODE, "tokens")
        else:
            token_buffer = buffer_name(graph, "tokens")
            self._gather_tokens(places, memory)
        edge = {name: memory.addresses[buffer] for name, buffer in names.items()}
        edge["tokens"] = memory.addresses[token_buffer]
        edge["latent"] = memory.addresses[name_of(graph, "latent")]
        for spec in self.bundle.signatures[graph].outputs[1:]:
            edge[spec.name] = memory.part(spec.name.replace("new_", "ring_", 1), step.slots.start)
        edge |= {name: address for name, address in memory.addresses.items() if is_ring(name)}
        self._run(graph, (graph, step.slots.start, places[0].number), edge, self.compute, state)
        if graph == DIT_FIRST:
            self._scatter_latents(places, memory)
            device.record(self.first_step_done, self.compute)
        self.before_first_step.discard(state)
        for recorded in {events.denoised, *(place.step.denoised for place in places)}:
            device.record(recorded, self.compute)
        return [UnitTensor(place, "latent") for place in places]

    def decode(self, latent: UnitTensor, condition: UnitTensor, state: ClipState) -> np.ndarray:
        """See `Executor.decode`."""
        return self.start_decode(latent, condition, state).read()

    def start_decode(self, latent: UnitTensor, condition: UnitTensor, state: ClipState) -> DecodingFrames:
        """See `OverlappingExecutor.start_decode`."""
        device, place = self.device, condition.place
        if latent.place is not place:
            raise ValueError(f"the latent of place {latent.place.number} is not of unit {place.number}")
        device.activate()
        if place.decoding:
            # These frames arrive in the same memory.
            place.decoding.keep()
        device.wait(self.decoding, place.step.denoised)
        device.wait(self.decoding, place.downloaded)
        edge = self._edge(DECODE, state.memory, partial(place.buffer, DECODE), place.half)
        edge["latent"] = state.memory.addresses[place.buffer(DIT, "latent")]
        edge["condition"] = state.memory.addresses[place.buffer(ENCODE, "condition")]
        self._run(DECODE, (DECODE, place.number), edge, self.decoding, state)
        device.record(place.decoded, self.decoding)
        device.wait(self.download, place.decoded)
        frames = state.decoded_frames(place)
        device.download(edge["frames"], frames, self.download)
        device.record(place.downloaded, self.download)
        place.decoding = DecodingFrames(device, place.downloaded, frames)
        return place.decoding

    def stage_seconds(self) -> dict[str, float]:
        """See `Executor.stage_seconds`."""
        self.device.activate()
        return self.timer.read()

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`. `kernel_calls`: how often engines and kernels ran, replays included."""
        return {
            "backend": "tensorrt",
            "device": self.device.name,
            "dtype": self.bundle.compute,
            **self.facts,
            "cuda_graphs": self.cuda_graphs,
            "kernel_calls": dict(self.kernel_calls),
            "device_memory_bytes": self.needed.total,
        }

    def _unload_first_step(self) -> None:
        """Give back the engines of the first step, which a clip runs once, when no clip is to run them."""
        if DIT_FIRST not in self.plans or self.before_first_step or not self.graphs.is_loaded(DIT_FIRST):
            return
        if self.device.is_over(self.first_step_done):
            self.graphs.unload(DIT_FIRST)

    def _send(
        self,
        arrays: Mapping[str, np.ndarray],
        names: Mapping[str, str],
        memory: ClipMemory,
        uploaded: int,
        consumed: int,
    ) -> None:
        """Copy host arrays into buffers that are free after `consumed`; they are there after `uploaded`."""
        # The pinned memory is free once its last copy is done.
        self.device.wait_on_host(uploaded)
        self.device.wait(self.upload, consumed)
        for name, array in arrays.items():
            pinned = memory.pinned[names[name]]
            np.copyto(pinned, array, casting="no")
            self.device.upload(pinned, memory.addresses[names[name]], self.upload)
        self.device.record(uploaded, self.upload)

    def _edge(
        self, graph: str, memory: ClipMemory, name_of: Callable[[str], str], half: int
    ) -> dict[str, int]:
        """Addresses of a graph's own buffers and of its state: one half is read, the other written."""
        signature = self.bundle.signatures[graph]
        named = {spec.name: name_of(spec.name) for spec in signature.inputs + signature.outputs}
        for spec in signature.state:
            named[spec.name] = state_name(spec.name, half)
            named[next_name(spec.name)] = state_name(spec.name, 1 - half)
        return {
            name: memory.addresses[buffer] for name, buffer in named.items() if buffer in memory.addresses
        }

    def _gather_tokens(self, places: list[UnitPlace], memory: ClipMemory) -> None:
        """All units' tokens as one; several units meet once a clip."""
        target = memory.addresses[buffer_name(DIT_FIRST, "tokens")]
        for place in places:
            source = place.buffer(ENCODE, "tokens")
            self.device.copy(memory.addresses[source], target, memory.size(source), self.compute)
            target += memory.size(source)

    def _scatter_latents(self, places: list[UnitPlace], memory: ClipMemory) -> None:
        for number, place in enumerate(places):
            source = memory.part(buffer_name(DIT_FIRST, "latent"), number * UNIT_LATENT_FRAMES)
            target = place.buffer(DIT, "latent")
            self.device.copy(source, memory.addresses[target], memory.size(target), self.compute)

    def _run(self, graph: str, key: tuple, edge: Mapping[str, int], stream: int, state: ClipState) -> None:
        stage = DIT if graph == DIT_FIRST else graph
        if self.profile:
            self.profile.start_stage()
        with self.timer.measure(stage, stream):
            bound = state.graphs.run(key, partial(self.graphs.bind, graph, edge), stream, graph != DIT_FIRST)
        self.kernel_calls.update(bound.calls)
        if graph == DIT_FIRST:
            state.graphs.forget(key)


def _release(device: Device, streams: tuple[int, ...], arenas: tuple[int, ...], graphs: LoadedGraphs) -> None:
    device.activate()
    for stream in streams:
        device.synchronize(stream)
    graphs.close()
    for stream in streams:
        device.destroy_stream(stream)
    for arena in arenas:
        if arena:
            device.free(arena)

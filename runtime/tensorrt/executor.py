"""The executor of TensorRT and TensorRT-RTX engines. No torch.

Four streams: `uploading`, `compute` (encoding and the DiT), `decoding`, `downloading`. Only events order
them, so that a unit is decoded and copied while the next one is encoded and denoised. State and the K/V ring
are bound where they lie: the address of a ring's slot is that of the DiT's new keys.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import DECODE, DIT, DIT_FIRST, ENCODE, Role, TensorSpec, stage_of
from flashvsr_trt.engines.plan import SegmentPlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.memory import MemoryEstimate
from flashvsr_trt.runtime.executor import GraphExecutor, HostArrays, PendingFrames
from flashvsr_trt.runtime.frames import NumpyArrays
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.tensorrt.clip_memory import ClipMemory, buffer_name, clip_layout, state_name
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice
from flashvsr_trt.runtime.tensorrt.cuda_graphs import BoundGraph
from flashvsr_trt.runtime.tensorrt.device_memory import check_device_memory
from flashvsr_trt.runtime.tensorrt.engine_runner import EngineRunner
from flashvsr_trt.runtime.tensorrt.loaded_graphs import LoadedGraphs
from flashvsr_trt.runtime.tensorrt.run_profile import RunProfile, StageTimer
from flashvsr_trt.runtime.tensorrt.state import ClipState, DecodingFrames, HostInputs, UnitPlace, UnitTensor


class TensorRTExecutor(GraphExecutor):
    """Runs a stream's engines.

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

    overlaps = True
    arrays = NumpyArrays(is_device=False)

    def __init__(
        self,
        bundle: Bundle,
        plans: Mapping[str, SegmentPlan],
        runner: EngineRunner,
        device: CudaDevice,
        cuda_graphs: bool = True,
        profile: RunProfile | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle, self.stream, self.plans = bundle, bundle.stream, plans
        self.signatures = bundle.signatures
        self.runner, self.device, self.profile = runner, device, profile
        self.cuda_graphs = cuda_graphs and profile is None
        self.facts = dict(facts or {})
        device.activate()
        self.uploading, self.compute, self.decoding, self.downloading = (
            device.new_stream() for _ in range(4)
        )
        self.streams = (self.compute, self.uploading, self.decoding, self.downloading)
        stream_of = {graph: self.decoding if stage_of(graph) == DECODE else self.compute for graph in plans}
        free = device.free_and_total_memory()[0]
        self.graphs = LoadedGraphs(plans, runner, stream_of, profile and profile.add_layer)
        sizes = self.graphs.arena_sizes
        left = device.free_and_total_memory()[0]
        clip = clip_layout(self.stream, bundle.compute).size
        self.needed = MemoryEstimate(free - left, clip, sum(sizes.values()))
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

    def new_state(self, ring: Mapping[str, int] | None = None) -> ClipState:
        """Zeroed state of a fresh clip; `ring` as of `ClipState`.

        Raises:
            DeviceError: it does not fit beside those there are.
        """
        self.device.activate()
        if DIT_FIRST in self.plans and not self.graphs.is_loaded(DIT_FIRST):
            self.graphs.load(DIT_FIRST)
        of_stream = self.device, self.stream, self.bundle.compute, self.streams
        state = ClipState(self, *of_stream, self.cuda_graphs, ring)
        self.before_first_step.add(state)
        return state

    def reset_state(self, state: ClipState) -> None:
        self.device.activate()
        for stream in self.streams:
            self.device.synchronize(stream)
        state.reset(self.compute)

    def run_graph(
        self,
        graph: str,
        arrays: HostArrays,
        tensors: Mapping[str, UnitTensor | list[UnitTensor]],
        state: ClipState,
        step: RingStep | None,
    ) -> dict[str, UnitTensor | list[UnitTensor]]:
        """The next state and a step's new keys are written where they stay."""
        device = self.device
        device.activate()
        places = _places(tensors) if tensors else [state.next_place()]
        if graph == ENCODE:
            self._unload_first_step()
        elif stage_of(graph) == DECODE and places[0].decoding:
            # These frames arrive in the same memory.
            places[0].decoding.keep()
        turn, stream = state.turn(graph, places), self.decoding if stage_of(graph) == DECODE else self.compute
        if turn.inputs:
            self._send(graph, arrays, state.memory, places, turn.inputs)
        for event in turn.before:
            device.wait(stream, event)
        if graph == DIT_FIRST:
            self._gather_tokens(places, state.memory)
        slot = () if step is None else (step.slots.start,)
        bind = partial(self._bind, graph, state.memory, places, *slot)
        self._run(graph, (graph, *slot, places[0].number), bind, stream, state)
        if graph == DIT_FIRST:
            self._scatter_latents(places, state.memory)
            device.record(self.first_step_done, stream)
        if step:
            self.before_first_step.discard(state)
        for event in turn.after:
            device.record(event, stream)
        if step:
            return {"latent": [UnitTensor(place, DIT, "latent") for place in places]}
        return {spec.name: UnitTensor(places[0], graph, spec.name) for spec in self.signatures[graph].results}

    def download(self, frames: UnitTensor) -> PendingFrames:
        device, place, memory = self.device, frames.place, frames.place.memory
        name = place.buffer(frames.graph, frames.name)
        device.wait(self.downloading, place.decoded)
        device.download(memory.addresses[name], memory.pinned[name], self.downloading)
        device.record(place.downloaded, self.downloading)
        place.decoding = DecodingFrames(device, place.downloaded, memory.pinned[name])
        return place.decoding.read

    def stage_seconds(self) -> dict[str, float]:
        self.device.activate()
        return self.timer.read()

    def describe(self) -> dict[str, Any]:
        """`kernel_calls`: how often engines and kernels ran, replays included."""
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
        self, graph: str, arrays: HostArrays, memory: ClipMemory, places: list[UnitPlace], inputs: HostInputs
    ) -> None:
        """Copy host arrays into a graph's buffers, once these were read, and record that they are there."""
        # The pinned memory is free once its last copy is done.
        self.device.wait_on_host(inputs.uploaded)
        self.device.wait(self.uploading, inputs.read)
        for name, array in arrays.items():
            buffer = _buffer(graph, name, places)
            np.copyto(memory.pinned[buffer], array, casting="no")
            self.device.upload(memory.pinned[buffer], memory.addresses[buffer], self.uploading)
        self.device.record(inputs.uploaded, self.uploading)

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

    def _bind(self, graph: str, memory: ClipMemory, places: list[UnitPlace], slot: int = 0) -> BoundGraph:
        """A graph on these units; of the state one half is read, the other written."""
        half = places[0].half

        def address(spec: TensorSpec) -> int:
            kept = spec.becomes or spec
            if kept.role is Role.RING:
                return memory.part(kept.name, slot) if spec.becomes else memory.addresses[kept.name]
            if kept.role is Role.STATE:
                return memory.addresses[state_name(kept.name, 1 - half if spec.becomes else half)]
            maker = graph if graph == DIT_FIRST else spec.made_by or graph
            return memory.addresses[_buffer(maker, spec.name, places)]

        signature = self.signatures[graph]
        specs = (*signature.graph_inputs, *signature.graph_outputs)
        return self.graphs.bind(graph, {spec.name: address(spec) for spec in specs})

    def _run(
        self, graph: str, key: tuple, bind: Callable[[], BoundGraph], stream: int, state: ClipState
    ) -> None:
        if self.profile:
            self.profile.start_stage()
        with self.timer.measure(stage_of(graph), stream):
            bound = state.graphs.run(key, bind, stream, comes_again=graph != DIT_FIRST)
        self.kernel_calls.update(bound.calls)


def _places(tensors: Mapping[str, UnitTensor | list[UnitTensor]]) -> list[UnitPlace]:
    """Where the units are that a graph's tensors are of: the same for all of them."""
    lists = [value if isinstance(value, list) else [value] for value in tensors.values()]
    found = [[unit.place for unit in units] for units in lists]
    if any(places != found[0] for places in found):
        numbers = {name: [p.number for p in places] for name, places in zip(tensors, found, strict=True)}
        raise ValueError(f"tensors of different units: places {numbers}")
    return found[0]


def _buffer(graph: str, tensor: str, places: list[UnitPlace]) -> str:
    """Name of a graph's own buffer: the first step of several units has its own, others the unit's place."""
    return buffer_name(graph, tensor, None if graph == DIT_FIRST else places[0].number)


def _release(
    device: CudaDevice, streams: tuple[int, ...], arenas: tuple[int, ...], graphs: LoadedGraphs
) -> None:
    device.activate()
    for stream in streams:
        device.synchronize(stream)
    graphs.close()
    for stream in streams:
        device.destroy_stream(stream)
    for arena in arenas:
        if arena:
            device.free(arena)

"""Engines one graph at a time on host arrays, as a backend that parity compares. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import ml_dtypes  # noqa: F401 - numpy then knows "bfloat16"
import numpy as np

from flashvsr_trt.config.signatures import DECODE, stage_of
from flashvsr_trt.engines.plan import KernelStep, PlanTensor, SegmentPlan
from flashvsr_trt.parity.onnxruntime_stages import expand_blocks
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays
from flashvsr_trt.plugins.sparse_attention import SELECT_BLOCKS
from flashvsr_trt.runtime.tensorrt.arena import Layout, place_side_by_side
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice
from flashvsr_trt.runtime.tensorrt.engine_runner import EngineRunner
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor


class EngineStages:
    """Implements `parity.stage_runner.StageRunner` with the engines that an executor has loaded.

    Every call waits for its graph. Layer masks are there where the graph is cut at its custom nodes: inside
    an engine with plugins nothing can be read.

    Args:
        executor: which runs no clip meanwhile; it gives its device, streams, arenas and engines.
    """

    def __init__(self, executor: TensorRTExecutor) -> None:
        self.executor = executor
        self.edges: dict[str, GraphEdge] = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Raises EngineError, DeviceError: as the engines do."""
        executor = self.executor
        device, graphs, plan = executor.device, executor.graphs, executor.plans[graph]
        stream = executor.decoding if stage_of(graph) == DECODE else executor.compute
        device.activate()
        if not graphs.is_loaded(graph):
            graphs.load(graph)
        if graph not in self.edges:
            self.edges[graph] = GraphEdge.allocate(device, plan)
        edge = self.edges[graph]
        for name in plan.inputs:
            np.copyto(edge.array(name), inputs[name], casting="no")
        device.upload(edge.host, edge.address, stream)
        recorder = BlockRecorder(executor.runner, device)
        replace(graphs.bind(graph, edge.addresses), runner=recorder).enqueue(stream)
        device.download(edge.address, edge.host, stream)
        device.synchronize(stream)
        return {name: edge.array(name).copy() for name in plan.outputs} | recorder.blocks

    def close(self) -> None:
        """Give the memory of inputs and outputs back."""
        for edge in self.edges.values():
            edge.release(self.executor.device)
        self.edges.clear()


@dataclass(frozen=True)
class GraphEdge:
    """A graph's inputs and outputs, all in one block on the host and one on the device."""

    tensors: Mapping[str, PlanTensor]
    layout: Layout
    host: np.ndarray
    address: int

    @classmethod
    def allocate(cls, device: CudaDevice, plan: SegmentPlan) -> "GraphEdge":
        """Raises DeviceError where there is no room."""
        tensors = {name: plan.tensors[name] for name in (*plan.inputs, *plan.outputs)}
        layout = place_side_by_side({name: tensor.size_bytes for name, tensor in tensors.items()})
        address = device.allocate(layout.size)
        return cls(tensors, layout, device.allocate_pinned((layout.size,), np.dtype(np.uint8)), address)

    @property
    def addresses(self) -> dict[str, int]:
        """On the device, by name."""
        return {name: self.address + offset for name, offset in self.layout.offsets.items()}

    def array(self, name: str) -> np.ndarray:
        """A tensor's place on the host."""
        tensor, start = self.tensors[name], self.layout.offsets[name]
        part = self.host[start : start + tensor.size_bytes]
        return part.view(np.dtype(tensor.dtype)).reshape(tensor.shape)

    def release(self, device: CudaDevice) -> None:
        """Give both blocks back."""
        device.free_pinned(self.host)
        device.free(self.address)


class BlockRecorder:
    """An `EngineRunner` that launches as another one does, and keeps the blocks that each layer selects."""

    def __init__(self, runner: EngineRunner, device: CudaDevice) -> None:
        self.runner, self.device = runner, device
        self.blocks: Arrays = {}

    def launch(
        self,
        plan: SegmentPlan,
        step: KernelStep,
        addresses: Mapping[str, int],
        scratch: int,
        stream: int,
    ) -> None:
        """What is selected is read at once: a later step may use its memory."""
        self.runner.launch(plan, step, addresses, scratch, stream)
        if step.operator == SELECT_BLOCKS.name:
            index, count = (
                self._read(plan.tensors[step.outputs[port]], addresses[port], stream)
                for port in ("index", "count")
            )
            self.blocks[f"{BLOCKS}{len(self.blocks)}"] = expand_blocks(index, count)

    def _read(self, tensor: PlanTensor, address: int, stream: int) -> np.ndarray:
        pinned = self.device.allocate_pinned(tensor.shape, np.dtype(tensor.dtype))
        try:
            self.device.download(address, pinned, stream)
            self.device.synchronize(stream)
            return pinned.copy()
        finally:
            self.device.free_pinned(pinned)

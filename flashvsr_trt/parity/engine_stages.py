"""The engines that a bundle is compared with: opened on the GPU, and run one graph at a time. No torch."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import ml_dtypes  # noqa: F401 - numpy then knows "bfloat16"
import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.signatures import DECODE, stage_of
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.engines.plan import KernelStep, PlanTensor, SegmentPlan
from flashvsr_trt.errors import EngineError
from flashvsr_trt.notices import Notify
from flashvsr_trt.parity.onnxruntime_stages import expand_blocks
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays
from flashvsr_trt.plugins.sparse_attention import SELECT_BLOCKS
from flashvsr_trt.runtime.tensorrt import open as tensorrt_open
from flashvsr_trt.runtime.tensorrt.arena import place_side_by_side
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice
from flashvsr_trt.runtime.tensorrt.engine_runner import EngineRunner
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from flashvsr_trt.runtime.tensorrt.named_engines import find_named_engines


def open_engines_of(bundle: Bundle, folder: Path, flavour: str, notify: Notify) -> TensorRTExecutor:
    """An executor on engines of a bundle.

    Args:
        folder: of one set of engines, or of several, of which the best is taken.
        flavour: theirs, or "auto".

    Raises:
        DeviceError: no GPU, or too little memory on it.
        EngineError: none of that bundle, or none that this machine can run; says why not.
        UsageError: no such folder.
        MissingDependencyError: their flavour is not installed.
    """
    device = tensorrt_open.find_device("auto")
    engines = find_named_engines(folder, device, flavour, partial(check_bundle, bundle), notify)
    return tensorrt_open.open_engines_on(tensorrt_open.CudaDevice(0), engines)


def check_bundle(bundle: Bundle, engines: EngineSet) -> None:
    """Raise EngineError if engines were built of another bundle."""
    own = {name: file.sha256 for name, file in bundle.graphs.items()} | {
        "weights": bundle.weights.file.sha256
    }
    built = dict(engines.manifest.key.graphs) | {"weights": engines.manifest.key.weights}
    differ = sorted(name for name in own | built if own.get(name) != built.get(name))
    if differ:
        raise EngineError(
            f"{engines.folder} holds engines of another bundle than {bundle.folder}: "
            f"{differ[0]} differs; build them with `flashvsr-trt engines build --bundle {bundle.folder}`"
        )


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
            self.edges[graph] = GraphEdge(device, plan)
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
        for edge in self.edges.values():
            edge.release(self.executor.device)
        self.edges.clear()


class GraphEdge:
    """A graph's inputs and outputs, all in one block on the host and one on the device.

    Raises:
        DeviceError: there is no room.
    """

    def __init__(self, device: CudaDevice, plan: SegmentPlan) -> None:
        self.tensors = {name: plan.tensors[name] for name in (*plan.inputs, *plan.outputs)}
        self.layout = place_side_by_side({name: tensor.size_bytes for name, tensor in self.tensors.items()})
        self.address = device.allocate(self.layout.size)
        self.host = device.allocate_pinned((self.layout.size,), np.dtype(np.uint8))
        self.addresses = {name: self.address + offset for name, offset in self.layout.offsets.items()}

    def array(self, name: str) -> np.ndarray:
        """A tensor's place on the host."""
        tensor, start = self.tensors[name], self.layout.offsets[name]
        part = self.host[start : start + tensor.size_bytes]
        return part.view(np.dtype(tensor.dtype)).reshape(tensor.shape)

    def release(self, device: CudaDevice) -> None:
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

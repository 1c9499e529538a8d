"""Engines in memory behind the executor's own seam: what they are bound to and when they run is recorded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import onnxruntime

from flashvsr_trt.engines.lowering import lower_graph
from flashvsr_trt.engines.plan import KernelStep, SegmentPlan
from flashvsr_trt.errors import EngineError
from tests.runtime.device_double import DeviceDouble

SCRATCH_BYTES = 4096
WEIGHT_BYTES = 10_000


@dataclass
class RecordedRunner:
    """Implements `runtime.engine_runner.EngineRunner`. Its engines compute nothing."""

    device: DeviceDouble
    bound: list[tuple[str, Mapping[str, int]]] = field(default_factory=list)
    capturable: bool = True
    fails: str | None = None
    contexts: dict[str, int] = field(default_factory=dict)

    keeps_host_memory = True

    def load(self, engine: str, stream: int) -> "RecordedEngine":
        self.device.taken += WEIGHT_BYTES
        self.contexts[engine] = 0
        return RecordedEngine(self, engine)

    def keep_compiled(self) -> None:
        pass

    def scratch_bytes(self, plan: SegmentPlan, step: KernelStep) -> int:
        return SCRATCH_BYTES

    def launch(self, plan, step, addresses, scratch, stream) -> None:
        def work() -> None:
            self.device.memory(scratch, SCRATCH_BYTES).fill(0x5A)
            self.compute_kernel(plan, step, addresses)

        self.device.put(stream, ("kernel", step.node), work)

    def compute_engine(self, engine: str, addresses: Mapping[str, int]) -> None:
        pass

    def compute_kernel(self, plan: SegmentPlan, step: KernelStep, addresses: Mapping[str, int]) -> None:
        pass


@dataclass
class RecordedEngine:
    """Implements `Engine`."""

    runner: RecordedRunner
    name: str
    memory_bytes: int = SCRATCH_BYTES

    def new_context(self, memory: int, report: Callable | None) -> "RecordedContext":
        self.runner.contexts[self.name] += 1
        return RecordedContext(self, memory, report)

    def close(self) -> None:
        self.runner.device.taken -= WEIGHT_BYTES
        del self.runner.contexts[self.name]


@dataclass
class RecordedContext:
    """Implements `EngineContext`. A run overwrites scratch memory, and keeps the addresses it began with."""

    engine: RecordedEngine
    memory: int
    report: Callable | None
    addresses: dict[str, int] = field(default_factory=dict)

    def bind(self, addresses: Mapping[str, int]) -> None:
        if addresses != self.addresses:
            self.addresses = dict(addresses)
            self.engine.runner.bound.append((self.engine.name, self.addresses))

    def enqueue(self, stream: int) -> None:
        runner, name, addresses = self.engine.runner, self.engine.name, self.addresses
        if runner.fails == name:
            raise EngineError(f"{name} failed: an illegal instruction")

        def work() -> None:
            runner.device.memory(self.memory, SCRATCH_BYTES).fill(0x5A)
            runner.compute_engine(name, addresses)

        runner.device.put(stream, ("engine", name), work)
        if self.report:
            self.report(name, "the only layer", 0.5)

    def can_capture(self, stream: int) -> bool:
        return self.engine.runner.capturable


@cache
def engines_of(folder: Path, graphs: tuple[str, ...]) -> dict:
    """Engine name -> its ONNX Runtime session and its graph's plan."""
    made = {}
    for graph in graphs:
        lowered = lower_graph(folder / f"{graph}.onnx")
        for name, segment in lowered.segments.items():
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = 1
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, str(folder))
            content = segment.SerializeToString()
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            made[name] = session, lowered.plan
    return made


class ComputingRunner(RecordedRunner):
    """Engines run with ONNX Runtime, kernels as their PyTorch references, all on the device's memory."""

    def __init__(self, device: DeviceDouble, bundle) -> None:
        super().__init__(device)
        self.engines = engines_of(bundle.folder, tuple(bundle.graphs))

    def compute_engine(self, engine, addresses) -> None:
        session, plan = self.engines[engine]
        arrays = {
            name: self.device.array(address, plan.tensors[name].shape, plan.tensors[name].dtype)
            for name, address in addresses.items()
        }
        outputs = [output.name for output in session.get_outputs()]
        made = session.run(outputs, {value.name: arrays[value.name] for value in session.get_inputs()})
        for name, value in zip(outputs, made, strict=True):
            arrays[name][...] = value

    def compute_kernel(self, plan, step, addresses) -> None:
        import torch

        from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
        from flashvsr_trt.kernels.select_blocks import select_blocks_reference

        ports = {**step.inputs, **step.outputs}
        arrays = {
            port: self.device.array(addresses[port], plan.tensors[name].shape, plan.tensors[name].dtype)
            for port, name in ports.items()
        }
        inputs = [torch.from_numpy(arrays[port]) for port in step.inputs]
        if step.operator == "select_blocks":
            made = select_blocks_reference(*inputs, step.attributes["top_k"])
        else:
            made = (block_sparse_attention_reference(*inputs),)
        for port, value in zip(step.outputs, made, strict=True):
            arrays[port][...] = value.numpy()

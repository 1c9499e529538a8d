"""A bundle's graphs cut as for engines that take no custom nodes, run piece by piece with ONNX Runtime.

What it is for: the cut and the order of steps are those of the engines, and run on any CPU. A custom node
runs as the function of standard operators that the bundle holds for it. No torch.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import ModelProto, helper

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.engines.lowering import lower_graph
from flashvsr_trt.engines.plan import EngineStep, KernelStep, SegmentPlan
from flashvsr_trt.plugins.sparse_attention import DOMAIN
from flashvsr_trt.runtime.onnxruntime.session import (
    check_precision,
    onnxruntime,
    open_session,
    run_session,
    session_options,
)

Arrays = dict[str, np.ndarray]

WatchKernel = Callable[[KernelStep, Arrays], None]
"""Gets each kernel's step and its outputs by port."""


class OnnxRuntimeSegments:
    """Runs lowered graphs on host arrays.

    Args:
        bundle: of precision fp32 or fp16.
        watch: called after every kernel.

    Raises:
        DeviceError: ONNX Runtime cannot run the bundle's precision.
    """

    def __init__(self, bundle: Bundle, watch: WatchKernel = lambda step, made: None) -> None:
        check_precision(bundle)
        self.bundle, self.watch = bundle, watch
        self.plans: dict[str, SegmentPlan] = {}
        self.engines: dict[str, onnxruntime.InferenceSession] = {}
        self.kernels: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All inputs and state of a graph's signature -> all its outputs and next state.

        A tensor is dropped after the last step that reads it by the plan, so a lifetime that is too short
        fails here.
        """
        if graph not in self.plans:
            self._load(graph)
        plan = self.plans[graph]
        memory = dict(inputs)
        for index, step in enumerate(plan.steps):
            memory |= self._run_step(plan, step, memory)
            for name, tensor in plan.tensors.items():
                if tensor.last_read == index:
                    memory.pop(name, None)
        return {name: memory[name] for name in plan.outputs}

    def _run_step(self, plan: SegmentPlan, step: EngineStep | KernelStep, memory: Arrays) -> Arrays:
        def bound(name: str) -> np.ndarray:
            return memory[plan.memory_of(name)].reshape(plan.tensors[name].shape)

        if isinstance(step, EngineStep):
            session, inputs = self.engines[step.engine], {name: bound(name) for name in step.inputs}
            return run_session(session, step.outputs, inputs, step.engine)
        ports = {port: bound(name) for port, name in step.inputs.items()}
        made = run_session(self.kernels[step.node], tuple(step.outputs), ports, step.node)
        self.watch(step, made)
        return {name: made[port] for port, name in step.outputs.items()}

    def _load(self, graph: str) -> None:
        lowered = lower_graph(self.bundle.graph_path(graph))
        whole = onnx.load(self.bundle.graph_path(graph), load_external_data=False)
        for name, segment in lowered.segments.items():
            self.engines[name] = self._session(segment)
        for step in lowered.plan.kernels:
            self.kernels[step.node] = self._session(_kernel_model(whole, lowered.plan, step))
        self.plans[graph] = lowered.plan

    def _session(self, model: ModelProto) -> onnxruntime.InferenceSession:
        return open_session(model.SerializeToString(), model.graph.name, session_options(self.bundle.folder))


def _kernel_model(whole: ModelProto, plan: SegmentPlan, step: KernelStep) -> ModelProto:
    """One custom node with the functions that its graph defines; inputs and outputs are its ports."""

    def values(ports: Mapping[str, str]) -> list[onnx.ValueInfoProto]:
        tensors = {port: plan.tensors[name] for port, name in ports.items()}
        return [
            helper.make_tensor_value_info(
                port, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tensor.shape
            )
            for port, tensor in tensors.items()
        ]

    node = helper.make_node(
        step.operator, list(step.inputs), list(step.outputs), domain=DOMAIN, **step.attributes
    )
    graph = helper.make_graph([node], step.operator, values(step.inputs), values(step.outputs))
    return helper.make_model(
        graph, functions=whole.functions, opset_imports=whole.opset_import, ir_version=whole.ir_version
    )

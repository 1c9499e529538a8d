"""A bundle's graphs cut as for engines, run piece by piece with ONNX Runtime on any CPU.

The cut and the order of steps are those of the engines. A custom node runs as the function of standard
operators that the bundle holds for it.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, helper

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.engines.lowering import lower_graph
from flashvsr_trt.engines.plan import EngineStep, KernelStep, SegmentPlan
from flashvsr_trt.parity.onnxruntime_stages import expand_blocks
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays
from flashvsr_trt.plugins.sparse_attention import DOMAIN, SELECT_BLOCKS
from flashvsr_trt.runtime.onnxruntime.session import onnxruntime, open_session, run_session, session_options


class SegmentStages:
    """Implements `parity.stage_runner.StageRunner` on the CPU, with a bundle of fp32 or fp16."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.plans: dict[str, SegmentPlan] = {}
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """A tensor is dropped after the last step that reads it by the plan: too short a lifetime fails."""
        if graph not in self.plans:
            self._load(graph)
        plan, memory, blocks = self.plans[graph], dict(inputs), {}
        for index, step in enumerate(plan.steps):
            made = self._run_step(plan, step, memory)
            memory |= made
            if isinstance(step, KernelStep) and step.operator == SELECT_BLOCKS.name:
                index_of, count = (made[step.outputs[port]] for port in ("index", "count"))
                blocks[f"{BLOCKS}{len(blocks)}"] = expand_blocks(index_of, count)
            for name, tensor in plan.tensors.items():
                if tensor.last_read == index:
                    memory.pop(name, None)
        return {name: memory[name] for name in plan.outputs} | blocks

    def _run_step(self, plan: SegmentPlan, step: EngineStep | KernelStep, memory: Arrays) -> Arrays:
        def bound(name: str) -> np.ndarray:
            return memory[plan.memory_of(name)].reshape(plan.tensors[name].shape)

        if isinstance(step, EngineStep):
            inputs = {name: bound(name) for name in step.inputs}
            return run_session(self.sessions[step.engine], step.outputs, inputs, step.engine)
        ports = {port: bound(name) for port, name in step.inputs.items()}
        made = run_session(self.sessions[step.node], tuple(step.outputs), ports, step.node)
        return {name: made[port] for port, name in step.outputs.items()}

    def _load(self, graph: str) -> None:
        lowered = lower_graph(self.bundle.graph_path(graph))
        whole = onnx.load(self.bundle.graph_path(graph), load_external_data=False)
        for name, segment in lowered.segments.items():
            self.sessions[name] = self._session(segment)
        for step in lowered.plan.kernels:
            self.sessions[step.node] = self._session(_kernel_model(whole, lowered.plan, step))
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

"""Finding the first tensor inside a graph where ONNX Runtime and torch part."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch.export.graph_signature import InputKind

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.errors import ParityError
from flashvsr_trt.export.export_bundle import compute_dtype
from flashvsr_trt.export.stage_graphs import GRAPHS, exported_network
from flashvsr_trt.export.trace import trace_stage
from flashvsr_trt.model.network import Network
from flashvsr_trt.parity.onnxruntime_stages import session_with_outputs
from flashvsr_trt.parity.tensor_error import TensorError, Thresholds
from flashvsr_trt.runtime.onnxruntime.session import run_session

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Divergence:
    """The first intermediate tensor beyond the thresholds, and the ONNX node that makes it."""

    graph: str
    node: str
    error: TensorError


def find_divergence(
    bundle: Bundle, network: Network, graph: str, inputs: Mapping[str, np.ndarray], limits: Thresholds
) -> Divergence | None:
    """Run one graph on the same inputs in both, with every intermediate tensor as an output.

    Tensors are matched by name: torch.onnx calls a value as the torch program does. None where all agree.
    """
    reference = intermediate_tensors(bundle, network, graph, inputs)
    model = ir.load(bundle.graph_path(graph))
    made_by = {
        str(value.name): str(node.name)
        for node in model.graph
        for value in node.outputs
        if value.name in reference and value.dtype in FLOAT_TYPES
    }
    session = session_with_outputs(model, bundle.folder, made_by)
    for name, tensor in run_session(session, list(made_by), dict(inputs), graph).items():
        error = TensorError(graph, name)
        error.add(reference[name], tensor)
        if error.exceeds(limits):
            return Divergence(graph, made_by[name], error)
    return None


def intermediate_tensors(
    bundle: Bundle, network: Network, graph: str, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every tensor of the traced torch program by name, computed by torch."""
    signature = bundle.signatures[graph]
    module = GRAPHS[graph](exported_network(network), bundle.stream)
    program = trace_stage(module, signature, compute_dtype(bundle.precision)).exported_program
    if program is None:
        raise ParityError(f"torch.onnx keeps no program of {graph}, to look inside it with")
    arguments = iter(torch.from_numpy(np.asarray(inputs[spec.name])) for spec in signature.graph_inputs)
    values = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            values.append(next(arguments))
        else:
            held = program.state_dict if spec.target in program.state_dict else program.constants
            values.append(held[str(spec.target)])
    recorder = Recorder(program.graph_module)
    with torch.inference_mode():
        recorder.run(*values)
    return recorder.tensors


class Recorder(torch.fx.Interpreter):
    """Keeps what every node of a torch program gives."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: dict[str, np.ndarray] = {}

    def run_node(self, node: torch.fx.Node):
        result = super().run_node(node)
        if isinstance(result, torch.Tensor) and node.op == "call_function":
            self.tensors[node.name] = result.numpy()
        return result

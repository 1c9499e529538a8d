"""A bundle's graphs through ONNX Runtime on host arrays, with any intermediate tensor as an output.

ONNX Runtime computes no bfloat16: such a graph is run in float32, exactly, as every bfloat16 weight is a
float32 one. With the types of tensors wider too, what is compared is the exported graph and its weights,
without the rounding of either side: the limits are those of float32.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays
from flashvsr_trt.plugins.sparse_attention import DOMAIN, SELECT_BLOCKS
from flashvsr_trt.runtime.onnxruntime.session import (
    check_precision,
    onnxruntime,
    open_session,
    run_session,
    session_options,
)

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


class OnnxRuntimeStages:
    """Implements `parity.stage_runner.StageRunner` on the CPU.

    Args:
        bundle: of precision fp32 or fp16, or of bf16 and said to be fp32, which then is computed.

    Raises:
        DeviceError: ONNX Runtime cannot run the bundle's precision.
    """

    def __init__(self, bundle: Bundle) -> None:
        check_precision(bundle)
        self.bundle = bundle
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.selections: dict[str, list[list[str]]] = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        if graph not in self.sessions:
            self._load(graph)
        session = self.sessions[graph]
        names = [output.name for output in session.get_outputs()]
        made = run_session(session, names, dict(inputs), graph)
        for layer, (index, count) in enumerate(self.selections[graph]):
            made[f"{BLOCKS}{layer}"] = expand_blocks(made.pop(index), made.pop(count))
        return made

    def _load(self, graph: str) -> None:
        model = ir.load(self.bundle.graph_path(graph))
        selection = (DOMAIN, SELECT_BLOCKS.name)
        selecting = [node for node in model.graph if (node.domain, node.op_type) == selection]
        pairs = [[str(output.name) for output in node.outputs] for node in selecting]
        selected = [name for pair in pairs for name in pair]
        self.selections[graph] = pairs
        self.sessions[graph] = session_with_outputs(model, self.bundle.folder, selected)


def session_with_outputs(model: ir.Model, folder: Path, names: Iterable[str]) -> onnxruntime.InferenceSession:
    """A CPU session over a model whose tensors `names` are outputs too; `folder` holds its weights.

    What is bfloat16 becomes float32.
    """
    weights = {name: onnxruntime.OrtValue.ortvalue_from_numpy(wide) for name, wide in widen(model).items()}
    made = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(made[name] for name in names if not made[name].is_graph_output())
    options = session_options(folder)
    if weights:
        options.add_external_initializers(list(weights), list(weights.values()))
    return open_session(ir.to_proto(model).SerializeToString(), str(model.graph.name), options)


def expand_blocks(index: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Index [heads, rows, n] and count [heads, rows] of kept blocks -> bool [heads, rows, n]."""
    mask = np.zeros(index.shape, bool)
    listed = np.arange(index.shape[-1]) < count[..., None]
    head, row, entry = np.nonzero(listed)
    mask[head, row, index[head, row, entry]] = True
    return mask


def widen(model: ir.Model) -> dict[str, np.ndarray]:
    """Makes every bfloat16 tensor of a graph float32, in place.

    Returns:
        The float32 values of weights that are external data, for the session to take in their place.
    """
    graph = model.graph
    made = [value for node in graph for value in node.outputs]
    for value in (*graph.inputs, *made, *graph.initializers.values()):
        if value.dtype == NARROW:
            value.dtype = WIDE
    for nodes in (graph, *model.functions.values()):
        for node in nodes:
            _widen_attributes(node)
    external = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype != NARROW:
            continue
        if isinstance(tensor, ir.ExternalTensor):
            external[name] = _read(tensor)
            value.const_value = ir.ExternalTensor(
                tensor.location, tensor.offset, None, WIDE, shape=tensor.shape, name=name
            )
        else:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=name)
    return external


def _read(tensor: ir.ExternalTensor) -> np.ndarray:
    """The weight as float32: a bfloat16 is the upper half of one."""
    # onnx_ir reads no file that has several hard links, and bundles share their weights by these.
    bits = np.memmap(tensor.path, "<u2", "r", offset=tensor.offset or 0, shape=tensor.shape.numpy())
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == NARROW:
            wide = attribute.as_tensor().numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(wide))
        elif (node.op_type, name) == ("Cast", "to") and attribute.as_int() == NARROW:
            node.attributes[name] = ir.AttrInt64(name, WIDE)

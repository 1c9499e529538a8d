"""A bundle's graphs through ONNX Runtime on host arrays, with any intermediate tensor as an output."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays
from flashvsr_trt.parity.widened import widen
from flashvsr_trt.plugins.sparse_attention import DOMAIN, SELECT_BLOCKS
from flashvsr_trt.runtime.onnxruntime.session import (
    check_precision,
    onnxruntime,
    open_session,
    run_session,
    session_options,
)


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

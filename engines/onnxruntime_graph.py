"""What ONNX Runtime's CUDA provider cannot take in the form that all others can, in a form that it can.

Its kernels of some operators lack int32. Its concatenation and split of unequal parts read a table from host
memory that is gone when a CUDA graph is replayed. Large matrices become inputs: whoever runs a segment binds
them, so that segments which share a matrix share its memory.
"""

import json
import math
from collections.abc import Callable, Iterator

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from flashvsr_trt.engines.onnxruntime_keys import WEIGHTS_KEY
from flashvsr_trt.errors import EngineError
from flashvsr_trt.plugins.onnx_values import shape_of

SHARED_BYTES = 1 << 16
"""Matrices of at least this size become inputs."""

MOST_PARTS = 32
"""Of equal size, that a concatenation takes as arguments of its kernel."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def adapt_for_onnxruntime(model: ModelProto) -> None:
    """Rewrite a segment in place. Results are the same bit by bit, but for the sign of a zero.

    Raises:
        EngineError: a concatenation that cannot be rewritten.
    """
    adapter = _Adapter(model.graph)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        rewrite = adapter.rewrite_of(node)
        nodes += rewrite(node) if rewrite else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    weights = dict(_matrices_to_inputs(model.graph))
    helper.set_model_props(model, {WEIGHTS_KEY: json.dumps(weights)})


class _Adapter:
    """Rewrites single nodes of a graph whose shapes are all known."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.input, *graph.value_info, *graph.output)
        self.values = {value.name: value for value in values}

    def rewrite_of(self, node: NodeProto) -> Callable[[NodeProto], list[NodeProto]] | None:
        """What puts other nodes in the place of this one; None where it may stay."""
        if node.op_type == "Clip" and self._dtype(node.input[0]) == TensorProto.INT32:
            return self._clip
        if node.op_type == "Pad" and self._dtype(node.input[0]) == TensorProto.INT32:
            return self._pad
        if node.op_type == "Concat" and self._needs_table(node):
            return self._concat
        if node.op_type == "Split" and len({self._shape(name)[self._axis(node)] for name in node.output}) > 1:
            return self._split
        return None

    def _clip(self, node: NodeProto) -> list[NodeProto]:
        value, low, high = node.input
        bounded = f"{node.name}/bounded"
        return [
            helper.make_node("Max", [value, low], [bounded], f"{node.name}/max"),
            helper.make_node("Min", [bounded, high], node.output, f"{node.name}/min"),
        ]

    def _pad(self, node: NodeProto) -> list[NodeProto]:
        """By way of float64, which holds every int32."""
        wide, padded = f"{node.name}/wide", f"{node.name}/padded"
        inputs = [wide, *node.input[1:]]
        nodes = [
            helper.make_node("Cast", [node.input[0]], [wide], f"{node.name}/to_wide", to=TensorProto.DOUBLE)
        ]
        if len(node.input) > 2 and node.input[2]:
            inputs[2] = f"{node.name}/wide_value"
            nodes.append(
                helper.make_node(
                    "Cast", [node.input[2]], [inputs[2]], f"{node.name}/value_to_wide", to=TensorProto.DOUBLE
                )
            )
        pad = helper.make_node("Pad", inputs, [padded], f"{node.name}/pad")
        pad.attribute.extend(node.attribute)
        back = helper.make_node("Cast", [padded], node.output, f"{node.name}/back", to=TensorProto.INT32)
        return [*nodes, pad, back]

    def _split(self, node: NodeProto) -> list[NodeProto]:
        axis, start, nodes = self._axis(node), 0, []
        for number, name in enumerate(node.output):
            end = start + self._shape(name)[axis]
            bounds = []
            for what, value in (("start", start), ("end", end), ("axis", axis)):
                tensor = numpy_helper.from_array(np.array([value], np.int64), f"{node.name}/{what}_{number}")
                self.graph.initializer.append(tensor)
                bounds.append(tensor.name)
            nodes.append(
                helper.make_node("Slice", [node.input[0], *bounds], [name], f"{node.name}/slice_{number}")
            )
            start = end
        return nodes

    def _needs_table(self, node: NodeProto) -> bool:
        return len(set(self._sizes(node))) > 1 or len(node.input) > MOST_PARTS

    def _concat(self, node: NodeProto) -> list[NodeProto]:
        sizes = self._sizes(node)
        part = math.gcd(*sizes)
        if sum(sizes) // part <= MOST_PARTS:
            return self._concat_equal_parts(node, sizes, part)
        if self._dtype(node.input[0]) in _FLOATS:
            return self._add_padded(node, sizes)
        raise EngineError(
            f"{node.name} concatenates {len(sizes)} parts of {sorted(set(sizes))} rows, which ONNX Runtime "
            "cannot replay in a CUDA graph; build with another --flavour"
        )

    def _concat_equal_parts(self, node: NodeProto, sizes: list[int], part: int) -> list[NodeProto]:
        axis = self._axis(node)
        nodes, parts = [], []
        for number, (name, size) in enumerate(zip(node.input, sizes, strict=True)):
            count = size // part
            if count == 1:
                parts.append(name)
                continue
            made = [f"{node.name}/part_{number}_{i}" for i in range(count)]
            nodes.append(
                helper.make_node(
                    "Split", [name], made, f"{node.name}/split_{number}", axis=axis, num_outputs=count
                )
            )
            parts += made
        return [*nodes, helper.make_node("Concat", parts, node.output, node.name, axis=axis)]

    def _add_padded(self, node: NodeProto, sizes: list[int]) -> list[NodeProto]:
        """Each input between zeros, added up."""
        axis, total, start = self._axis(node), sum(sizes), 0
        rank = len(self._shape(node.input[0]))
        nodes, sums = [], ""
        for number, (name, size) in enumerate(zip(node.input, sizes, strict=True)):
            pads = [0] * (2 * rank)
            pads[axis % rank], pads[rank + axis % rank] = start, total - start - size
            start += size
            table = numpy_helper.from_array(np.array(pads, np.int64), f"{node.name}/pads_{number}")
            self.graph.initializer.append(table)
            padded = f"{node.name}/padded_{number}"
            nodes.append(helper.make_node("Pad", [name, table.name], [padded], f"{node.name}/pad_{number}"))
            if sums:
                last = number == len(sizes) - 1
                made = node.output[0] if last else f"{node.name}/sum_{number}"
                nodes.append(helper.make_node("Add", [sums, padded], [made], f"{node.name}/add_{number}"))
                padded = made
            sums = padded
        return nodes

    def _axis(self, node: NodeProto) -> int:
        return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)

    def _sizes(self, node: NodeProto) -> list[int]:
        return [self._shape(name)[self._axis(node)] for name in node.input]

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self.constants:
            return tuple(self.constants[name].dims)
        return shape_of(self.values[name])

    def _dtype(self, name: str) -> int:
        if name in self.constants:
            return self.constants[name].data_type
        return self.values[name].type.tensor_type.elem_type


def _matrices_to_inputs(graph: GraphProto) -> Iterator[tuple[str, dict]]:
    """Take large matrices of products out of the initializers; yields each one's name and place."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kept = []
    for tensor in graph.initializer:
        place = _place(tensor)
        shared = (
            place is not None
            and place["size_bytes"] >= SHARED_BYTES
            and all(node.op_type in ("Gemm", "MatMul") for node in readers.get(tensor.name, []))
        )
        if not shared:
            kept.append(tensor)
            continue
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        yield tensor.name, place
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _place(tensor: TensorProto) -> dict | None:
    """Where a tensor's bytes are; None if the graph holds them itself."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return {
        "file": entries["location"],
        "offset": int(entries.get("offset", 0)),
        "size_bytes": math.prod(tensor.dims) * dtype.itemsize,
        "dtype": dtype.name,
        "shape": list(tensor.dims),
    }

"""What is in an exported graph: nodes, parameters, work and memory. Reads ONNX files, runs nothing."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.presets import WINDOW_TOKENS
from flashvsr_trt.config.signatures import TensorSpec
from flashvsr_trt.errors import BundleError
from flashvsr_trt.plugins.sparse_attention import BLOCK_SPARSE_ATTENTION, DOMAIN, SELECT_BLOCKS

_ATTENTION = f"{DOMAIN}::{BLOCK_SPARSE_ATTENTION.name}"


@dataclass(frozen=True)
class GraphReport:
    """One ONNX graph. FLOPs count a multiply-add as two; bytes are of tensors that cross the graph's edge."""

    name: str
    file_bytes: int
    nodes: int
    node_counts: dict[str, int]
    custom_nodes: dict[str, int]
    parameters: int
    parameter_bytes: int
    flops: int
    input_bytes: int
    output_bytes: int
    state_bytes: int | None
    """Of the bundle's declared state; None for a graph on its own, which does not say what is state."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_bundle(bundle: Bundle) -> list[GraphReport]:
    """Every graph of a bundle; the ring counts as state of the DiT."""
    return [
        inspect_file(bundle.graph_path(name), name, signature.carried, bundle.compute)
        for name, signature in bundle.signatures.items()
    ]


def inspect_file(
    path: Path, name: str | None = None, carried: tuple[TensorSpec, ...] | None = None, compute: str = ""
) -> GraphReport:
    """One ONNX file.

    Raises:
        BundleError: it is not a readable ONNX model.
    """
    try:
        proto = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
        graph = ir.from_proto(proto).graph
    except (OSError, DecodeError, onnx.shape_inference.InferenceError, ir.serde.SerdeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{path} is not a readable ONNX model: {reason}") from error
    if not len(graph):
        raise BundleError(f"{path} is not a readable ONNX model: it has no nodes")
    counts = Counter(map(_label, graph))
    weights = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    return GraphReport(
        name=name or path.stem,
        file_bytes=path.stat().st_size,
        nodes=len(graph),
        node_counts=dict(counts.most_common()),
        custom_nodes={label: count for label, count in counts.items() if "::" in label},
        parameters=sum(tensor.size for tensor in weights),
        parameter_bytes=sum(tensor.nbytes for tensor in weights),
        flops=sum(map(node_flops, graph)),
        input_bytes=_bytes(graph.inputs),
        output_bytes=_bytes(graph.outputs),
        state_bytes=None if carried is None else sum(spec.size_bytes(compute) for spec in carried),
    )


def node_flops(node: ir.Node) -> int:
    """Multiply-adds of matrix products, convolutions and attention, times two; 0 for all other nodes."""
    kind = _label(node)
    if kind == _ATTENTION:
        return _attention_flops(node)
    if kind == "Einsum":
        return _einsum_flops(node)
    if kind == "Conv":
        summed = math.prod(_shape(node.inputs[1])[1:])
    elif kind in ("Gemm", "MatMul"):
        summed = _shape(node.inputs[0])[0 if node.attributes.get_int("transA", 0) else -1]
    else:
        return 0
    return 2 * math.prod(_shape(node.outputs[0])) * summed


def _einsum_flops(node: ir.Node) -> int:
    terms = node.attributes["equation"].as_string().replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str | int, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        before, _, after = term.partition("...")
        shape = _shape(value)
        # What an ellipsis stands for is aligned at its end, as broadcasting does.
        axes = [*before, *range(len(before) + len(after) - len(shape), 0), *after]
        if len(axes) != len(shape):
            return 0
        for axis, size in zip(axes, shape, strict=True):
            sizes[axis] = max(size, sizes.get(axis, 0))
    return 2 * math.prod(sizes.values())


def _attention_flops(node: ir.Node) -> int:
    """Of all blocks its selection may keep, which the node that selects them knows."""
    selecting = next((x.producer() for x in node.inputs[5:6] if x is not None), None)
    if selecting is None or selecting.op_type != SELECT_BLOCKS.name:
        return 0
    heads, units, windows, key_windows = _shape(selecting.inputs[0])
    kept = min(selecting.attributes["top_k"].as_int(), windows * key_windows - 1)
    return heads * units * kept * 4 * WINDOW_TOKENS * WINDOW_TOKENS * _shape(node.inputs[0])[-1]


def _label(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    """Sizes of its axes; 0 stands for one, or for all, that a graph which is not ours leaves open."""
    shape = value.shape if value is not None and value.shape is not None else (0,)
    return tuple(side if isinstance(side, int) else 0 for side in shape)


def _bytes(values: Iterable[ir.Value]) -> int:
    return sum(math.prod(_shape(value)) * value.dtype.numpy().itemsize for value in values if value.dtype)

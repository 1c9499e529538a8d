"""What is in an exported graph: nodes, parameters, work and memory. Reads ONNX files, runs nothing."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.presets import WINDOW_TOKENS
from flashvsr_trt.config.signatures import TensorSpec
from flashvsr_trt.errors import BundleError
from flashvsr_trt.plugins.onnx_values import shape_of
from flashvsr_trt.plugins.sparse_attention import BLOCK_SPARSE_ATTENTION, DOMAIN, SELECT_BLOCKS

Shape = tuple[int, ...]


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
        """For JSON."""
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
        model = onnx.load(path, load_external_data=False)
        model = onnx.shape_inference.infer_shapes(model)
    except (OSError, DecodeError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"{path} is not a readable ONNX model: {error}") from error
    graph = model.graph
    if not graph.node:
        raise BundleError(f"{path} is not a readable ONNX model: it has no nodes")
    shapes = _shapes(graph)
    counts = Counter(_label(node) for node in graph.node)
    return GraphReport(
        name=name or path.stem,
        file_bytes=path.stat().st_size,
        nodes=len(graph.node),
        node_counts=dict(counts.most_common()),
        custom_nodes={label: count for label, count in counts.items() if "::" in label},
        parameters=sum(math.prod(tensor.dims) for tensor in graph.initializer),
        parameter_bytes=sum(
            math.prod(tensor.dims) * _item_bytes(tensor.data_type) for tensor in graph.initializer
        ),
        flops=sum(node_flops(node, shapes) for node in graph.node),
        input_bytes=_bytes(graph.input),
        output_bytes=_bytes(graph.output),
        state_bytes=None if carried is None else sum(spec.size_bytes(compute) for spec in carried),
    )


def node_flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-adds of matrix products, convolutions and attention, times two; 0 for all other nodes."""
    count = _FLOPS.get(_label(node))
    return count(node, shapes) if count else 0


def _conv_flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    _, *kernel = shapes[node.input[1]]
    return 2 * math.prod(shapes[node.output[0]]) * math.prod(kernel)


def _gemm_flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    inner = shapes[node.input[0]][0 if transposed else 1]
    return 2 * math.prod(shapes[node.output[0]]) * inner


def _matmul_flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _einsum_flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    sizes: dict[str, int] = {}
    for term, name in zip(equation.partition("->")[0].split(","), node.input, strict=True):
        sizes |= dict(zip(term.strip(), shapes[name], strict=True))
    return 2 * math.prod(sizes.values())


def _sparse_attention_flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Of all blocks its selection may keep: `top_k` a head and unit is known to the selecting node only.

    The blocks are written into `shapes` under the name of the index tensor as (blocks,).
    """
    (blocks,) = shapes[_blocks_key(node.input[5])]
    return blocks * 4 * WINDOW_TOKENS * WINDOW_TOKENS * shapes[node.input[0]][-1]


_FLOPS: dict[str, Callable[[onnx.NodeProto, dict[str, Shape]], int]] = {
    "Conv": _conv_flops,
    "Gemm": _gemm_flops,
    "MatMul": _matmul_flops,
    "Einsum": _einsum_flops,
    f"{DOMAIN}::{BLOCK_SPARSE_ATTENTION.name}": _sparse_attention_flops,
}


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Shape of every named tensor, and how many blocks each selection may keep."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = shape_of(value)
    for node in graph.node:
        if _label(node) == f"{DOMAIN}::{SELECT_BLOCKS.name}":
            heads, units, windows, key_windows = shapes[node.input[0]]
            top_k = next(a.i for a in node.attribute if a.name == "top_k")
            kept = min(top_k, windows * key_windows - 1)
            shapes[_blocks_key(node.output[0])] = (heads * units * kept,)
    return shapes


def _blocks_key(index: str) -> str:
    return f"blocks of {index}"


def _label(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _bytes(values: Iterable[onnx.ValueInfoProto]) -> int:
    return sum(math.prod(shape_of(value)) * _item_bytes(value.type.tensor_type.elem_type) for value in values)


def _item_bytes(elem_type: int) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize

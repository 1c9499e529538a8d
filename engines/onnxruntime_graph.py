"""One segment to the file that an ONNX Runtime session opens. Building is rewriting: it needs no GPU.

What ONNX Runtime's CUDA provider cannot take in the form that all others can is put in a form that it can.
Its kernels of some operators lack int32. Its concatenation and split of unequal parts read a table from host
memory that is gone when a CUDA graph is replayed. Large matrices become inputs: whoever runs a segment binds
them, so that segments which share a matrix share its memory.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import ModelProto
from onnx_ir.tape import Tape

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.engines.flavours import ONNXRUNTIME
from flashvsr_trt.engines.layers import write_layers
from flashvsr_trt.engines.manifest import WEIGHTS_KEY, EngineFile, built_file
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.errors import EngineError, UsageError

SHARED_BYTES = 1 << 16
"""Matrices of at least this size become inputs."""

MOST_PARTS = 32
"""Of equal size, that a concatenation takes as arguments of its kernel."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)

Rewrite = Callable[[Tape, ir.Node], Sequence[ir.Value]]
"""Puts the nodes on a tape that stand for a node, and gives what its outputs become."""


def check_onnxruntime_build(bundle: Bundle, options: BuildOptions) -> None:
    """Raise EngineError for a precision that the CUDA provider lacks, UsageError for TensorRT's options."""
    if bundle.precision not in ONNXRUNTIME.precisions:
        raise EngineError(
            f"{ONNXRUNTIME.title} cannot run the {bundle.precision} bundle {bundle.folder}: it has no "
            f"transposed convolution in that; export it with --precision {ONNXRUNTIME.precisions[0]}"
        )
    refused = replace(options, cut=False).words
    if refused:
        raise UsageError(f"{', '.join(refused)}: the {ONNXRUNTIME.name} flavour has no such option")


def write_session_file(segment: ModelProto, path: Path) -> EngineFile:
    """Adapt a segment and write it; its weights stay in the bundle's file, beside it.

    Raises:
        EngineError: the segment cannot be adapted.
    """
    started = time.perf_counter()
    onnx.save(adapt_for_onnxruntime(segment), path)
    # Its kernels are chosen when a session is opened.
    write_layers(path.parent, path.stem, ())
    return built_file(path, started)


def adapt_for_onnxruntime(segment: ModelProto) -> ModelProto:
    """A segment rewritten, all of whose shapes are known. Results are the same, but for the sign of a zero.

    Raises:
        EngineError: a concatenation that cannot be rewritten.
    """
    model = ir.from_proto(segment)
    graph = model.graph
    for node in list(graph):
        rewrite = _rewrite_of(node)
        if rewrite:
            tape = Tape(graph)
            made = rewrite(tape, node)
            for number, new in enumerate(tape.nodes):
                new.name = f"{node.name}/{new.op_type}_{number}"
            ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, node.outputs, made)
    model.metadata_props[WEIGHTS_KEY] = json.dumps(dict(_matrices_to_inputs(graph)))
    return ir.to_proto(model)


def _rewrite_of(node: ir.Node) -> Rewrite | None:
    """What puts other nodes in the place of this one; None where it may stay."""
    if node.op_type in ("Clip", "Pad") and _dtype(node) == ir.DataType.INT32:
        return _clip if node.op_type == "Clip" else _pad
    if node.op_type == "Concat":
        sizes = _sizes(node, node.inputs)
        return _concat if len(set(sizes)) > 1 or len(sizes) > MOST_PARTS else None
    if node.op_type == "Split":
        return _split if len(set(_sizes(node, node.outputs))) > 1 else None
    return None


def _clip(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    value, low, high = node.inputs
    return [tape.op("Min", [tape.op("Max", [value, low]), high])]


def _pad(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    """By way of float64, which holds every int32."""
    inputs = list(node.inputs)
    for place in (0, 2):  # the data, and the value to pad with
        if place < len(inputs) and inputs[place] is not None:
            inputs[place] = tape.op("Cast", [inputs[place]], {"to": ir.DataType.DOUBLE})
    padded = tape.op("Pad", inputs, node.attributes)
    return [tape.op("Cast", [padded], {"to": ir.DataType.INT32})]


def _split(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    start, made = 0, []
    for number, size in enumerate(_sizes(node, node.outputs)):
        bounds = {"start": start, "end": start + size, "axis": _axis(node)}
        tables = [_table(tape, f"{node.name}/{name}_{number}", [at]) for name, at in bounds.items()]
        made.append(tape.op("Slice", [node.inputs[0], *tables]))
        start += size
    return made


def _concat(tape: Tape, node: ir.Node) -> Sequence[ir.Value]:
    sizes = _sizes(node, node.inputs)
    part = math.gcd(*sizes)
    if sum(sizes) // part <= MOST_PARTS:
        return [_concat_equal_parts(tape, node, sizes, part)]
    if _dtype(node) in _FLOATS:
        return [_add_padded(tape, node, sizes)]
    raise EngineError(
        f"{node.name} concatenates {len(sizes)} parts of {sorted(set(sizes))} rows, which ONNX Runtime "
        "cannot replay in a CUDA graph; build with another --flavour"
    )


def _concat_equal_parts(tape: Tape, node: ir.Node, sizes: list[int], part: int) -> ir.Value:
    axis, parts = _axis(node), []
    for value, size in zip(node.inputs, sizes, strict=True):
        count = size // part
        split = {"axis": axis, "num_outputs": count}
        parts += [value] if count == 1 else tape.op_multi_out("Split", [value], split, num_outputs=count)
    return tape.op("Concat", parts, {"axis": axis})


def _add_padded(tape: Tape, node: ir.Node, sizes: list[int]) -> ir.Value:
    """Each input between zeros, added up."""
    rank = len(_shape(node.outputs[0]))
    axis, start, sums = _axis(node) % rank, 0, []
    for number, (value, size) in enumerate(zip(node.inputs, sizes, strict=True)):
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = start, sum(sizes) - start - size
        start += size
        padded = tape.op("Pad", [value, _table(tape, f"{node.name}/pads_{number}", pads)])
        sums.append(tape.op("Add", [sums[-1], padded]) if sums else padded)
    return sums[-1]


def _table(tape: Tape, name: str, values: list[int]) -> ir.Value:
    return tape.initializer(ir.tensor(np.array(values, np.int64), name=name))


def _axis(node: ir.Node) -> int:
    return node.attributes.get_int("axis", 0)


def _dtype(node: ir.Node) -> ir.DataType | None:
    return node.inputs[0].dtype if node.inputs[0] else None


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    """All are known in graphs of ours, and numpy() says so where one is not."""
    return value.shape.numpy() if value is not None and value.shape is not None else ()


def _sizes(node: ir.Node, values: Sequence[ir.Value | None]) -> list[int]:
    return [_shape(value)[_axis(node)] for value in values]


def _matrices_to_inputs(graph: ir.Graph) -> Iterator[tuple[str, dict]]:
    """Take large matrices of products out of the initializers; yields each one's name and place."""
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if (
            isinstance(tensor, ir.ExternalTensor)
            and tensor.nbytes >= SHARED_BYTES
            and all(node.op_type in ("Gemm", "MatMul") for node, _ in value.uses())
        ):
            graph.initializers.pop(name)
            graph.inputs.append(value)
            yield (
                name,
                {
                    "file": str(tensor.location),
                    "offset": tensor.offset or 0,
                    "size_bytes": tensor.nbytes,
                    "dtype": tensor.dtype.numpy().name,
                    "shape": list(tensor.shape.numpy()),
                },
            )

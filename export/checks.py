"""What every exported graph must hold, read back from its file."""

import math
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from flashvsr_trt.config.signatures import COMPUTE, StageSignature, TensorSpec
from flashvsr_trt.errors import BundleError
from flashvsr_trt.plugins.onnx_values import dtype_of, shape_of


def check_graph(path: Path, signature: StageSignature, compute: str) -> None:
    """Checker, strict shape inference, weights inside their file, and the signature's inputs and outputs.

    Raises:
        BundleError: saying what does not hold.
    """
    model = onnx.load(path, load_external_data=False)
    _check_weights(model, path)
    try:
        onnx.checker.check_model(_with_weights_as_inputs(model), full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"{path.name} is not valid ONNX: {error}") from error
    _check_ports(path.name, "input", inferred.graph.input, signature.graph_inputs, compute)
    _check_ports(path.name, "output", inferred.graph.output, signature.graph_outputs, compute)
    for node in model.graph.node:
        if node.op_type == "TopK":
            raise BundleError(f"{path.name} holds {node.name}, a TopK: engines take no more than 3,840")
        if node.op_type == "Conv" and _rank(inferred, node.output[0]) == 5:
            raise BundleError(f"{path.name} holds {node.name}, a 3-D convolution, which is slow everywhere")


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    """Every weight's bytes are inside the file that it names, beside the graph."""
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        data = ExternalDataInfo(tensor)
        size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        file = path.parent / data.location
        if data.length != size or (data.offset or 0) + size > file.stat().st_size:
            raise BundleError(f"{path.name} holds {tensor.name} with bytes that are not in {data.location}")


def _with_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph for the checker, which refuses external data in a file that bundles share."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    weights = [tensor for tensor in bare.graph.initializer if uses_external_data(tensor)]
    for tensor in weights:
        bare.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
        bare.graph.initializer.remove(tensor)
    return bare


def _check_ports(
    file: str, kind: str, found: Iterable[onnx.ValueInfoProto], specs: tuple[TensorSpec, ...], compute: str
) -> None:
    declared = [(spec.name, compute if spec.dtype == COMPUTE else spec.dtype, spec.shape) for spec in specs]
    actual = [(value.name, dtype_of(value), shape_of(value)) for value in found]
    for one, other in zip(actual, declared, strict=False):
        if one != other:
            raise BundleError(f"{file} has {kind} {one}, and its signature declares {other}")
    if len(actual) != len(declared):
        raise BundleError(f"{file} has {len(actual)} {kind}s, and its signature declares {len(declared)}")


def _rank(model: onnx.ModelProto, name: str) -> int | None:
    for value in (*model.graph.value_info, *model.graph.output):
        if value.name == name:
            return len(shape_of(value))
    return None

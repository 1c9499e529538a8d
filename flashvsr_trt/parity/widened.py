"""A bfloat16 bundle in float32, exactly: ONNX Runtime computes no bfloat16.

Every bfloat16 weight is a float32 one. With the types of tensors wider too, what is compared is the exported
graph and its weights, without the rounding of either side: the limits are those of float32.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.model.network import Network

NARROW, WIDE = "bf16", "fp32"


def widened_bundle(bundle: Bundle) -> Bundle:
    """The same files, their tensors taken as float32."""
    return replace(bundle, precision=WIDE)


def widened_network(network: Network) -> Network:
    """The network in float32, of weights that were rounded to bfloat16. Changes its modules."""
    return Network(
        projector=network.projector.float(), dit=network.dit.float(), decoder=network.decoder.float()
    )


def widen(model: ModelProto, folder: Path) -> dict[str, np.ndarray]:
    """Makes every bfloat16 tensor of a graph float32, in place.

    Args:
        model: loaded without its external data.
        folder: where the files of that data are.

    Returns:
        The float32 values of weights that are external data, for the session to take in their place.
    """
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in (*graph.node, *(node for function in model.functions for node in function.node)):
        _widen_attributes(node)
    return _widen_weights(graph, folder)


def _widen_attributes(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.BFLOAT16:
            attribute.t.CopyFrom(_wide_tensor(attribute.t))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT


def _widen_weights(graph: GraphProto, folder: Path) -> dict[str, np.ndarray]:
    external = {}
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.BFLOAT16:
            continue
        if uses_external_data(tensor):
            external[tensor.name] = _read(tensor, folder)
            tensor.data_type = TensorProto.FLOAT
        else:
            tensor.CopyFrom(_wide_tensor(tensor))
    return external


def _wide_tensor(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor).astype(np.float32)
    return helper.make_tensor(tensor.name, TensorProto.FLOAT, tensor.dims, values.tobytes(), raw=True)


def _read(tensor: TensorProto, folder: Path) -> np.ndarray:
    """The weight as float32: a bfloat16 is the upper half of one."""
    data = ExternalDataInfo(tensor)
    shape = tuple(tensor.dims)
    bits = np.memmap(folder / data.location, "<u2", "r", offset=data.offset or 0, shape=shape)
    return (bits.astype(np.uint32) << 16).view(np.float32)

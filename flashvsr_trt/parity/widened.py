"""A bfloat16 graph in float32, exactly: ONNX Runtime computes no bfloat16.

Every bfloat16 weight is a float32 one. With the types of tensors wider too, what is compared is the exported
graph and its weights, without the rounding of either side: the limits are those of float32.
"""

import numpy as np
import onnx_ir as ir

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


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

"""Transposed convolutions in bfloat16, which TensorRT-RTX 1.7 has no kernel for, as convolutions.

A 4x4 kernel of stride 2 makes each output pixel of 2x2 input pixels, by one of four 2x2 kernels: one for
each position (a, b) of the pixel in its 2x2 cell. They are one convolution of four times the channels, whose
result for position (a, b) is shifted by (a, b); interleaving the four is DepthToSpace. The products are the
same.
"""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Positions of an output pixel in its 2x2 cell: row a, column b."""

_FORM = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1}


def replace_bfloat16_transposed_convolutions(model: ModelProto) -> None:
    """Replace, in place, those with a 4x4 kernel, stride 2, padding 1 and no bias.

    Weights are rearranged by nodes, which a builder folds, so that they stay references into their file.
    """
    graph = model.graph
    shapes = _shapes(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "ConvTranspose" else None
        if weight is not None and weight.data_type == TensorProto.BFLOAT16 and _has_form(node):
            nodes += _as_convolution(node, weight, shapes[node.input[0]], graph)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _has_form(node: NodeProto) -> bool:
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    padding = found.pop("output_padding", [0, 0])
    return (
        len(node.input) == 2 and list(padding) == [0, 0] and all(found.get(k) == v for k, v in _FORM.items())
    )


def _as_convolution(
    node: NodeProto, weight: TensorProto, shape: tuple[int, ...], graph: GraphProto
) -> list[NodeProto]:
    base = node.name
    channels_in, channels, _, _ = weight.dims
    _, _, height, width = shape

    def constant(name: str, values: list[int]) -> str:
        tensor = numpy_helper.from_array(np.array(values, np.int64), f"{base}/{name}")
        graph.initializer.append(tensor)
        return tensor.name

    def made(operator: str, name: str, inputs: list[str], **attributes) -> NodeProto:
        return helper.make_node(operator, inputs, [f"{base}/{name}"], f"{base}/{name}", **attributes)

    reversed_order = constant("reversed_order", [3, 2, 1, 0])
    # Rows of the reversed kernel are 2u + a: row u of the 2x2 kernel of position a; columns alike.
    split = constant("split", [channels_in, channels, 2, 2, 2, 2])
    stacked = constant("stacked_shape", [4 * channels, channels_in, 2, 2])
    nodes = [
        made("Gather", "rows", [weight.name, reversed_order], axis=2),
        made("Gather", "columns", [f"{base}/rows", reversed_order], axis=3),
        made("Reshape", "phases", [f"{base}/columns", split]),
        made("Transpose", "ordered", [f"{base}/phases"], perm=[3, 5, 1, 0, 2, 4]),
        made("Reshape", "kernel", [f"{base}/ordered", stacked]),
        made("Conv", "all_phases", [node.input[0], f"{base}/kernel"], kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
    ]
    axes = constant("axes", [1, 2, 3])
    shifted = []
    for phase, (a, b) in enumerate(PHASES):
        starts = constant(f"starts_{phase}", [phase * channels, a, b])
        ends = constant(f"ends_{phase}", [(phase + 1) * channels, a + height, b + width])
        nodes.append(made("Slice", f"phase_{phase}", [f"{base}/all_phases", starts, ends, axes]))
        shifted.append(f"{base}/phase_{phase}")
    nodes.append(made("Concat", "cells", shifted, axis=1))
    nodes.append(
        helper.make_node(
            "DepthToSpace", [f"{base}/cells"], node.output, f"{base}/interleaved", blocksize=2, mode="DCR"
        )
    )
    return nodes


def _shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}

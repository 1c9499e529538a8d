"""Which tensors of a graph are the same memory in another shape."""

from onnx import GraphProto

VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Operators whose output holds the bytes of their first input, in the same order."""


def view_roots(graph: GraphProto) -> dict[str, str]:
    """Every tensor's name -> the tensor that it is a view of, through any number of views; else itself."""
    roots = {value.name: value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        is_view = node.op_type in VIEWS and not node.domain
        for output in node.output:
            roots[output] = roots[node.input[0]] if is_view else output
    return roots

"""What a value of an ONNX graph is: its dtype and shape, as the signatures spell them."""

from onnx import ValueInfoProto, helper


def dtype_of(value: ValueInfoProto) -> str:
    """The name that `TensorSpec.dtype` uses, which is numpy's."""
    return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name


def shape_of(value: ValueInfoProto) -> tuple[int, ...]:
    """Sizes of its axes, which are all known in graphs of ours."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)

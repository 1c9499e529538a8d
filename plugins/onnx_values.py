"""What a value of an ONNX graph is: its dtype and shape, as the signatures spell them."""

from onnx import TensorProto, ValueInfoProto


def numpy_name(elem_type: int) -> str:
    """ONNX element type -> the name that `TensorSpec.dtype` uses."""
    name = TensorProto.DataType.Name(elem_type).lower()
    return {"float": "float32"}.get(name, name)


def dtype_of(value: ValueInfoProto) -> str:
    """The name that `TensorSpec.dtype` uses."""
    return numpy_name(value.type.tensor_type.elem_type)


def shape_of(value: ValueInfoProto) -> tuple[int, ...]:
    """Sizes of its axes, which are all known in graphs of ours."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)

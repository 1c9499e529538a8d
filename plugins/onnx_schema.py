"""The operators' declarations as ONNX schemas, for tracing. Nothing is registered in the process."""

from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

from flashvsr_trt.plugins.sparse_attention import DOMAIN, DOMAIN_VERSION, Operator, Port

FLASHVSR_OPSET = Opset(DOMAIN, DOMAIN_VERSION)
"""Holds the project's nodes and their functions."""

STANDARD_OPSET_VERSION = 22
"""Of all exported graphs: the first with bfloat16 convolutions, known to TensorRT 10.15 and later."""

FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]


def schema_of(operator: Operator) -> OpSchema:
    """The ONNX schema: T is any of FLOATS, attributes are required integers."""
    return OpSchema(
        operator.name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[_parameter(port) for port in operator.inputs],
        outputs=[_parameter(port) for port in operator.outputs],
        type_constraints=[("T", FLOATS, "dtype of the attention")] if _is_generic(operator) else [],
        attributes=[
            OpSchema.Attribute(name, OpSchema.AttrType.INT, meaning, required=True)
            for name, meaning in operator.attributes.items()
        ],
    )


def onnxscript_op(operator: Operator) -> Op:
    """What a translation calls to emit one node of the operator."""
    return Op(FLASHVSR_OPSET, operator.name, schema_of(operator))


def _is_generic(operator: Operator) -> bool:
    return any(port.dtype == "T" for port in operator.inputs + operator.outputs)


def _parameter(port: Port) -> OpSchema.FormalParameter:
    dtype = port.dtype if port.dtype == "T" else f"tensor({port.dtype})"
    return OpSchema.FormalParameter(port.name, dtype, f"[{', '.join(port.axes)}]: {port.meaning}")

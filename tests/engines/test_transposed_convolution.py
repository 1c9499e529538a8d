"""Transposed convolutions as convolutions: the same result, by ONNX Runtime."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from flashvsr_trt.engines.transposed_convolution import replace_bfloat16_transposed_convolutions

FORM = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [4, 4], "dilations": [1, 1], "group": 1}


def transposed(x_shape, channels, seed, bias=False, **changes):
    """A model of one bfloat16 transposed convolution."""
    random = np.random.default_rng(seed)
    batch, channels_in, height, width = x_shape
    weight = random.standard_normal((channels_in, channels, 4, 4)).astype(ml_dtypes.bfloat16)
    constants = [numpy_helper.from_array(weight, "w")]
    if bias:
        constants.append(numpy_helper.from_array(np.ones(channels, ml_dtypes.bfloat16), "b"))
    node = helper.make_node("ConvTranspose", ["x", "w"] + ["b"] * bias, ["y"], "grow", **(FORM | changes))
    shapes = {"x": x_shape, "y": (batch, channels, 2 * height, 2 * width)}
    values = [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, s) for n, s in shapes.items()]
    graph = helper.make_graph([node], "one", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def in_float32(model):
    """The same model in float32, which ONNX Runtime can run."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return onnxruntime.InferenceSession(wide.SerializeToString(), providers=["CPUExecutionProvider"])


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_the_result_is_the_same(x_shape, channels, seed):
    model = transposed(x_shape, channels, seed)
    x = np.random.default_rng(seed).standard_normal(x_shape).astype(np.float32)
    (expected,) = in_float32(model).run(None, {"x": x})
    replace_bfloat16_transposed_convolutions(model)
    onnx.checker.check_model(model, full_check=True)
    assert "ConvTranspose" not in {node.op_type for node in model.graph.node}
    (result,) = in_float32(model).run(None, {"x": x})
    np.testing.assert_allclose(result, expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("changes", [{"bias": True}, {"pads": [0, 0, 0, 0]}, {"output_padding": [1, 1]}])
def test_other_forms_stay(changes):
    model = transposed((1, 2, 3, 3), 2, 0, **changes)
    replace_bfloat16_transposed_convolutions(model)
    assert [node.op_type for node in model.graph.node] == ["ConvTranspose"]

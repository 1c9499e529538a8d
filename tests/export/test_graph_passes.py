"""Each pass on a graph of a few nodes, run before and after where it must not change results."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from flashvsr_trt.config.signatures import StageSignature, TensorSpec
from flashvsr_trt.export.graph_passes import (
    attach_functions,
    fold_constants,
    fold_weight_reshapes,
    merge_slices,
    name_nodes_by_layer,
    name_weights,
    refer_to_weights,
    strip_metadata,
)
from flashvsr_trt.export.trace import trace_stage
from flashvsr_trt.export.weights_file import data_offsets, write_weights
from flashvsr_trt.plugins.sparse_attention import DOMAIN


def graph(text: str, weights: dict[str, torch.Tensor] | None = None) -> ir.Model:
    """A model of ONNX text, with torch tensors as its weights."""
    imports = f'"" : 22, "{DOMAIN}" : 1'
    model = ir.from_onnx_text(f"<ir_version: 10, opset_import: [{imports}]> {text}")
    for name, tensor in (weights or {}).items():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(tensor, name=name)
        value.dtype, value.shape = value.const_value.dtype, ir.Shape(tensor.shape)
        model.graph.register_initializer(value)
    return model


def run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, inputs)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


MATMUL = "g (float[2,6] x) => (float[2,4] y) { y = MatMul(x, w) }"


def test_name_weights_goes_by_the_data():
    weight = torch.randn(6, 4)
    model = graph(MATMUL, {"w": weight})
    name_weights(model, {weight.data_ptr(): "dit.w", 0: "other"})
    assert list(model.graph.initializers) == ["dit.w"]
    assert model.graph[0].inputs[1].name == "dit.w"


def test_a_reshaped_weight_is_stored_reshaped():
    weight = torch.randn(4, 3, 2)
    text = """g (float[2,6] x) => (float[2,4] y)
        <int64[2] shape = {4, 6}> { flat = Reshape(w, shape) y = Gemm<transB = 1>(x, flat) }"""
    model = graph(text, {"w": weight})
    model.graph[0].outputs[0].shape = ir.Shape((4, 6))
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    before = run(model, x=x)
    fold_weight_reshapes(model)
    assert ops(model) == ["Gemm"]
    folded = model.graph.initializers["w"].const_value
    assert folded.raw.data_ptr() == weight.data_ptr()
    np.testing.assert_array_equal(before, run(model, x=x))


def test_a_weight_that_is_used_twice_keeps_its_shape():
    text = """g (float[2,6] x) => (float[2,4] y, float[4,3,2] z) <int64[2] shape = {4, 6}>
        { flat = Reshape(w, shape) y = Gemm<transB = 1>(x, flat) z = Identity(w) }"""
    model = graph(text, {"w": torch.randn(4, 3, 2)})
    model.graph[0].outputs[0].shape = ir.Shape((4, 6))
    fold_weight_reshapes(model)
    assert ops(model) == ["Reshape", "Gemm", "Identity"]


def test_constants_are_folded_and_weights_are_not():
    text = """g (float[2,6] x) => (float[2,4] y) <float[6] scale = {1,2,3,4,5,6}, float one = {1.0}>
        { more = Add(scale, one) scaled = Mul(x, more) y = MatMul(scaled, w) }"""
    model = graph(text, {"w": torch.randn(6, 4)})
    x = np.ones((2, 6), np.float32)
    before = run(model, x=x)
    fold_constants(model)
    assert ops(model) == ["Mul", "MatMul"]
    assert "w" in model.graph.initializers
    np.testing.assert_array_equal(before, run(model, x=x))


def test_slices_along_different_axes_become_one_and_others_stay():
    text = """g (float[6,8] x) => (float[2,3] y, float[2,8] z) {
      rows = Slice(x, one, five, axis0, step) y0 = Slice(rows, one, four, axis1, step)
      y = Slice(y0, zero, two, axis0, step) z = Slice(rows, zero, two, axis0, step) }"""
    numbers = {"zero": 0, "one": 1, "two": 2, "four": 4, "five": 5, "axis0": 0, "axis1": 1, "step": 1}
    model = graph(text, {name: torch.tensor([value]) for name, value in numbers.items()})
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    expected = run(model, x=x)
    merge_slices(model)
    assert ops(model).count("Slice") == 3  # `rows` has two readers
    for made, wanted in zip(run(model, x=x), expected, strict=True):
        np.testing.assert_array_equal(made, wanted)

    chain = """g (float[6,8] x) => (float[4,3] y) {
      rows = Slice(x, one, five, axis0, step) y = Slice(rows, one, four, axis1, step) }"""
    model = graph(chain, {name: torch.tensor([value]) for name, value in numbers.items() if name in chain})
    merge_slices(model)
    assert ops(model) == ["Slice"]
    np.testing.assert_array_equal(run(model, x=x)[0], x[1:5, 1:4])


def test_nodes_are_named_after_their_modules():
    model = graph("g (float[2] x) => (float[2] y) { a = Relu(x) b = Relu(a) y = Neg(b) }")
    for node, scope in zip(model.graph, ("stage.dit.blocks.3", "stage.dit.blocks.3", None), strict=True):
        if scope:
            node.metadata_props["pkg.torch.onnx.name_scopes"] = f"['', '{scope}', 'relu']"
    name_nodes_by_layer(model)
    assert [node.name for node in model.graph] == ["dit.blocks.3/Relu", "dit.blocks.3/Relu_2", "Neg"]


def test_metadata_is_dropped():
    model = graph("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph[0].metadata_props["pkg.torch.onnx.stack_trace"] = "File a.py"
    strip_metadata(model)
    assert not model.graph[0].metadata_props


def test_functions_are_attached_where_they_are_used():
    text = """g (float[1,1,1,2] p, bool[1] valid) => (int32[1,1,2] index, int32[1,1] count)
        { index, count = flashvsr.select_blocks<top_k = 1>(p, valid) }"""
    model = graph(text)
    attach_functions(model)
    assert [name for _, name, _ in model.functions] == ["select_blocks"]
    index, count = run(model, p=np.array([[[[0.25, 0.75]]]], np.float32), valid=np.array([True]))
    assert (count.item(), index[0, 0, 0]) == (1, 1)
    plain = graph(MATMUL, {"w": torch.randn(6, 4)})
    attach_functions(plain)
    assert not plain.functions


def test_weights_are_read_from_their_file(tmp_path):
    weight = torch.randn(6, 4)
    model = graph(MATMUL, {"w": weight})
    file = tmp_path / "weights.safetensors"
    write_weights(file, {"other": torch.zeros(3), "w": weight})
    refer_to_weights(model, file, data_offsets(file))
    ir.save(model, tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx", load_external_data=False).ByteSize() < 300
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = np.eye(2, 6, dtype=np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], weight[:2].numpy())


def test_integer_division_does_not_pass_through_floats():
    class Divide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.div(1 << 22, rounding_mode="trunc")

    spec = TensorSpec("x", "int32", (4,), "value")
    out = TensorSpec("y", "int32", (4,), "value")
    program = trace_stage(Divide(), StageSignature("divide", (spec,), (), (out,)), torch.float32)
    # One below a multiple: float32 would round it up to the multiple.
    x = np.array([(255 << 22) - 1, 255 << 22, -1, -(3 << 22) - 1], np.int32)
    np.testing.assert_array_equal(run(program.model, x=x)[0], [254, 255, 0, -3])

"""The ONNX functions of the custom nodes, run by ONNX Runtime, against the nodes' PyTorch references."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.select_blocks import compact_mask, select_blocks_reference
from flashvsr_trt.plugins.block_sparse_attention_function import block_sparse_attention
from flashvsr_trt.plugins.onnx_schema import STANDARD_OPSET_VERSION
from flashvsr_trt.plugins.select_blocks_function import select_blocks
from flashvsr_trt.plugins.sparse_attention import (
    BLOCK_SPARSE_ATTENTION,
    DOMAIN,
    DOMAIN_VERSION,
    OPERATORS,
    SELECT_BLOCKS,
    Operator,
)
from flashvsr_trt.runtime.onnxruntime.session import open_session, session_options

FUNCTIONS = {SELECT_BLOCKS.name: select_blocks, BLOCK_SPARSE_ATTENTION.name: block_sparse_attention}
TYPES = {"float": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32, "bool": onnx.TensorProto.BOOL}


def one_node_session(operator: Operator, compute: str = "float", **attributes: int):
    """A session over a model that is one custom node with its function; shapes stay open."""

    def value_info(port):
        dtype = onnx.TensorProto.FLOAT16 if port.dtype == "T" and compute == "float16" else None
        dtype = dtype or TYPES[compute if port.dtype == "T" else port.dtype]
        return helper.make_tensor_value_info(port.name, dtype, port.axes)

    node = helper.make_node(
        operator.name,
        [port.name for port in operator.inputs],
        [port.name for port in operator.outputs],
        domain=DOMAIN,
        **attributes,
    )
    graph = helper.make_graph(
        [node], "one", [value_info(p) for p in operator.inputs], [value_info(p) for p in operator.outputs]
    )
    model = helper.make_model(
        graph,
        functions=[FUNCTIONS[operator.name].to_function_proto()],
        opset_imports=[
            helper.make_opsetid("", STANDARD_OPSET_VERSION),
            helper.make_opsetid(DOMAIN, DOMAIN_VERSION),
        ],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return open_session(model.SerializeToString(), operator.name, session_options())


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_a_function_has_the_declared_ports(operator):
    function = FUNCTIONS[operator.name].to_function_proto()
    assert list(function.input) == [port.name for port in operator.inputs]
    assert len(function.output) == len(operator.outputs)
    assert list(function.attribute) == list(operator.attributes)
    assert function.domain == DOMAIN
    assert not any(node.op_type == "TopK" for node in function.node)


def probabilities(draw, shape):
    """Non-negative maps: smooth, of few levels (ties), tiny (below the normal floats), or one-hot rows."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    match draw(st.sampled_from(["softmax", "peaked", "ties", "tiny", "constant", "huge"])):
        case "softmax":
            return torch.softmax(scores, dim=-1)
        case "peaked":
            return torch.softmax(scores * 60, dim=-1)
        case "ties":
            return torch.randint(0, 3, shape, generator=generator) / 4
        case "tiny":
            return scores.abs() * 2.0**-140
        case "constant":
            return torch.full(shape, 0.125)
        case "huge":
            return scores.abs() * 2.0**120


@st.composite
def selections(draw):
    heads, units, slots = (draw(st.integers(1, high)) for high in (3, 3, 4))
    windows = draw(st.sampled_from([1, 2, 5, 12]))
    probability = probabilities(draw, (heads, units, windows, (slots + units) * windows))
    valid = torch.tensor(draw(st.lists(st.booleans(), min_size=slots, max_size=slots)))
    columns = torch.cat([valid, valid.new_ones(units)]).repeat_interleave(windows)
    top_k = draw(st.integers(0, windows * windows * (slots + units) + 3))
    return probability * columns, valid, top_k


@settings(max_examples=60, deadline=None)
@given(selections())
def test_select_blocks_equals_its_reference(selection):
    probability, valid, top_k = selection
    session = one_node_session(SELECT_BLOCKS, top_k=top_k)
    index, count = session.run(None, {"probability": probability.numpy(), "slot_valid": valid.numpy()})
    expected_index, expected_count = select_blocks_reference(probability, valid, top_k)
    np.testing.assert_array_equal(count, expected_count.numpy())
    np.testing.assert_array_equal(index, expected_index.numpy())


@st.composite
def attentions(draw):
    heads, units, slots = (draw(st.integers(1, high)) for high in (2, 2, 4))
    windows, head_dim = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([8, 32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 8.0]))
    tokens = (units * windows * 128, heads, head_dim)
    ring = (slots, windows * 128, heads, head_dim)
    shapes = (tokens, tokens, tokens, ring, ring)
    tensors = [torch.randn(shape, generator=generator) * sharpness for shape in shapes]
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    mask = torch.rand(heads, units * windows, (slots + units) * windows, generator=generator) < density
    return (*tensors, *compact_mask(mask))


@settings(max_examples=30, deadline=None)
@given(attentions())
def test_block_sparse_attention_equals_its_reference(tensors):
    session = one_node_session(BLOCK_SPARSE_ATTENTION)
    names = [port.name for port in BLOCK_SPARSE_ATTENTION.inputs]
    (out,) = session.run(None, {name: x.numpy() for name, x in zip(names, tensors, strict=True)})
    expected = block_sparse_attention_reference(*tensors).numpy()
    # The sharpest logits are in the hundreds, where float32 itself is off by 2e-5: the reference by 1.6e-5.
    np.testing.assert_allclose(out, expected, atol=5e-5 * max(1.0, np.abs(expected).max()))


def test_half_precision_sums_in_float32():
    generator = torch.Generator().manual_seed(1)
    tokens, ring = (256, 1, 32), (4, 256, 1, 32)
    wide = [torch.randn(shape, generator=generator) for shape in (tokens, tokens, tokens, ring, ring)]
    listed = compact_mask(torch.rand(1, 2, 10, generator=generator) < 0.5)
    session = one_node_session(BLOCK_SPARSE_ATTENTION, compute="float16")
    half = [x.half() for x in wide]
    names = [port.name for port in BLOCK_SPARSE_ATTENTION.inputs]
    inputs = {name: x.numpy() for name, x in zip(names, (*half, *listed), strict=True)}
    (out,) = session.run(None, inputs)
    assert out.dtype == np.float16
    expected = block_sparse_attention_reference(*(x.float() for x in half), *listed)
    np.testing.assert_allclose(out, expected.numpy(), atol=1e-3)

"""The official implementation's clips through exported graphs, and half-precision bundles."""

import numpy as np
import onnx
import pytest

from flashvsr_trt.errors import DeviceError
from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor
from flashvsr_trt.runtime.session import Session
from tests.exported import export_golden
from tests.golden import assert_within_levels, load_case
from tests.golden_clips import golden_noise, skip_two


def test_the_official_clip_comes_out_of_the_graphs(bundles_folder):
    case = load_case("e2e_official")
    bundle = export_golden(bundles_folder, "e2e_official", "official", "pil")
    session = Session(OnnxRuntimeExecutor(bundle), noise=golden_noise(case))
    frames = np.concatenate([session.push(case["lr"].numpy()), session.flush()])
    expected = case["frames_u8_some"].numpy()
    assert_within_levels(frames[::2], expected)
    assert (frames[::2] != expected).mean() < 1e-3


def test_the_streaming_clip_comes_out_of_the_graphs(bundles_folder):
    case = load_case("e2e_streaming")
    bundle = export_golden(bundles_folder, "e2e_streaming", "low-latency", "torch")
    session = Session(OnnxRuntimeExecutor(bundle), noise=golden_noise(case), position=skip_two)
    frames = np.concatenate([session.push(case["lr"].numpy()), session.flush()])
    assert_within_levels(frames, case["frames_u8"].numpy())
    assert (frames != case["frames_u8"].numpy()).mean() < 1e-3


def test_a_bf16_bundle_checks_and_is_strongly_typed(bfloat16_bundle):
    bundle = bfloat16_bundle
    bfloat16 = onnx.TensorProto.BFLOAT16
    for name in bundle.graphs:
        model = onnx.shape_inference.infer_shapes(
            onnx.load(bundle.graph_path(name), load_external_data=False), check_type=True, strict_mode=True
        )
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        heavy = [node for node in model.graph.node if node.op_type in ("Gemm", "Conv", "ConvTranspose")]
        assert heavy
        for node in heavy:
            assert {types[tensor] for tensor in node.input[1:]} == {bfloat16}
        for node in model.graph.node:
            if node.op_type == "ReduceL2":
                assert types[node.input[0]] == onnx.TensorProto.FLOAT
    with pytest.raises(DeviceError, match="bf16 bundle"):
        OnnxRuntimeExecutor(bundle)

"""A bfloat16 graph in float32, exactly."""

import os

import ml_dtypes
import numpy as np
import onnx_ir as ir

from flashvsr_trt.parity.onnxruntime_stages import widen


def test_weights_of_a_file_that_bundles_share_are_widened_bit_by_bit(tmp_path):
    weight = np.array([[0.1, -3.0], [1e30, 7.0]], ml_dtypes.bfloat16)
    (tmp_path / "weights").write_bytes(b"head" + weight.tobytes())
    os.link(tmp_path / "weights", tmp_path / "weights of another bundle")
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 22]>
        test (bfloat16[2, 2] x) => (bfloat16[2, 2] y)
        <bfloat16[2, 2] weight = ["location": "weights", "offset": "4", "length": "8"]>
        { y = MatMul(x, weight) }"""
    )
    external = ir.ExternalTensor(
        "weights", 4, 8, ir.DataType.BFLOAT16, shape=ir.Shape([2, 2]), name="weight", base_dir=tmp_path
    )
    model.graph.initializers["weight"].const_value = external
    wide = widen(model)
    np.testing.assert_array_equal(wide["weight"], weight.astype(np.float32))
    dtypes = [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)]
    assert dtypes == [ir.DataType.FLOAT, ir.DataType.FLOAT]
    kept = model.graph.initializers["weight"].const_value
    assert (kept.dtype, kept.location, kept.offset) == (ir.DataType.FLOAT, "weights", 4)

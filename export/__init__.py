"""Stages to ONNX: tracing to one bundle, graph passes (one function each), checks and inspection.

May import: model, plugins.
"""

from flashvsr_trt.errors import named_missing_parts

with named_missing_parts():
    import onnx
    import onnx_ir
    import onnxscript

__all__ = ["onnx", "onnx_ir", "onnxscript"]

"""Stages to ONNX: tracing to one bundle, graph passes (one function each), checks and inspection.

May import: model, plugins.
"""

from flashvsr_trt.errors import MissingDependencyError

try:
    import onnx
    import onnx_ir
    import onnxscript
except ImportError as error:
    raise MissingDependencyError(
        f"exporting needs {error.name}: pip install 'flashvsr-trt[export,cpu]'"
    ) from error

__all__ = ["onnx", "onnx_ir", "onnxscript"]

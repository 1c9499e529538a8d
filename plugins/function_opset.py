"""The ONNX opset that holds the project's nodes and their functions."""

from onnxscript.values import Opset

from flashvsr_trt.plugins.sparse_attention import DOMAIN, DOMAIN_VERSION

FLASHVSR_OPSET = Opset(DOMAIN, DOMAIN_VERSION)

STANDARD_OPSET_VERSION = 22
"""Of all exported graphs: the first with bfloat16 convolutions, known to TensorRT 10.15 and later."""

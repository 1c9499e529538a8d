"""The custom ONNX op and its TensorRT plugin.

Will hold: the op's schema (inputs, outputs, attributes), the TensorRT quick-deployable plugin whose
ahead-of-time implementation is the kernel room's PTX, and the body of the op in standard ONNX operators.
May import: kernels.
"""

"""The custom ONNX nodes of sparse attention: declarations, schemas, and functions of standard operators.

May import: kernels.
"""

"""The custom ONNX nodes of sparse attention: declarations, schemas, functions of standard operators, plugins.

May import: kernels.
"""

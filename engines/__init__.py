"""ONNX bundles to engines.

Will hold: lowering for TensorRT and TensorRT-RTX, the builder, the cache and its key, the manifest,
inspection and verification. May import: plugins.
"""

"""ONNX bundles to engines: lowering, the builders, the cache and its key, the manifest, verification.

The way of a graph is in docs/map.md. May import: plugins.
"""

"""Stages to ONNX.

Will hold: tracing `encode`, `dit` and `decode` of `flashvsr_trt.model.stages` to one bundle, the graph
passes (one function each) and the checks of a finished bundle. May import: model, plugins.
"""

"""ONNX Runtime: the executor on a CPU, and a segment's session on a GPU."""

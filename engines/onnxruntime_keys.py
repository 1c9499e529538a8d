"""What an adapted segment says of itself, for those who run it: reading it needs no onnx."""

WEIGHTS_KEY = "flashvsr_trt.weights"
"""Of the model's metadata: input name -> its bytes' {"file", "offset", "size_bytes", "dtype", "shape"}."""

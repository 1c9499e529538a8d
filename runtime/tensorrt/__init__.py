"""The executor that runs segments of engines and kernels between them."""

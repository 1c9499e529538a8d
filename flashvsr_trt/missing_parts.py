"""Parts that are not installed: the module that is missed becomes an error that says what installs it."""

from collections.abc import Iterator
from contextlib import contextmanager

from flashvsr_trt.errors import MissingDependencyError

INSTALLED_BY = {
    "torch": "torch",
    "triton": "'flashvsr-trt[kernels]'",
    "cuda": "'flashvsr-trt[kernels]'",
    "onnxruntime": "'flashvsr-trt[cpu]'",
    "onnx": "'flashvsr-trt[export]'",
    "onnxscript": "'flashvsr-trt[export]'",
    "onnx_ir": "'flashvsr-trt[export]'",
    "tensorrt": "'flashvsr-trt[tensorrt]'",
    "tensorrt_rtx": "'flashvsr-trt[rtx]'",
}
"""Top-level module -> what pip installs it with."""


@contextmanager
def named_missing_parts() -> Iterator[None]:
    """Inside, a module of INSTALLED_BY that is not there raises MissingDependencyError."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in INSTALLED_BY:
            raise
        raise MissingDependencyError(
            f"this needs {module}, which is not installed: pip install {INSTALLED_BY[module]}"
        ) from error

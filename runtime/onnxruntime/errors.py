"""What ONNX Runtime says went wrong, as an error of ours. Its exceptions have no class in common."""

from collections.abc import Iterator
from contextlib import contextmanager

from flashvsr_trt.errors import DeviceError

_MODULE = "onnxruntime.capi"


@contextmanager
def onnxruntime_errors(what: str) -> Iterator[None]:
    """Turns ONNX Runtime's own exceptions within the block into a DeviceError that begins with `what`."""
    try:
        yield
    except Exception as error:
        # With bound tensors a run raises a plain RuntimeError.
        if not (type(error) is RuntimeError or type(error).__module__.startswith(_MODULE)):
            raise
        reason = " ".join(str(error).split())[:300]
        raise DeviceError(
            f"{what} ({reason}); check that memory is free, or export again after `flashvsr-trt cache prune`"
        ) from error

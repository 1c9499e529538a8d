"""Calls of the CUDA driver through cuda-python, whose failures are errors of ours. No torch."""

import importlib
from functools import cache
from types import ModuleType
from typing import Any

from flashvsr_trt.errors import DeviceError, MissingDependencyError
from flashvsr_trt.extras import install_command


@cache
def driver() -> ModuleType:
    """cuda-python's bindings. Raises MissingDependencyError where they are not installed."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise MissingDependencyError(
            f"running kernels and engines needs cuda-python: {install_command('kernels')}; extras rtx and "
            "tensorrt bring it as well"
        ) from error


def call(name: str, *arguments: Any, detail: str = "", about: str = "") -> Any:
    """What the driver's function of that name gives: nothing, one result, or a tuple of them.

    Args:
        detail: said after the name where the call fails ("of 256 bytes").
        about: said before it.

    Raises:
        DeviceError: with CUDA's own message.
    """
    what = f"{about}{name}{detail and f' {detail}'}"
    try:
        status, *results = getattr(driver(), name)(*arguments)
    except RuntimeError as error:  # cuda-python's, where there is no driver library
        raise DeviceError(f"{what}: {error}; see `flashvsr-trt doctor`") from error
    check_status(status, what)
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)


def check_status(status: Any, what: str) -> None:
    """Raise DeviceError, with CUDA's own message, unless a call succeeded."""
    cuda = driver()
    if status != cuda.CUresult.CUDA_SUCCESS:
        _, text = cuda.cuGetErrorString(status)
        raise DeviceError(f"{what} failed: {text.decode() if text else status}")


def name_and_capability(device: Any) -> tuple[str, str]:
    """What a device is called, and its compute capability, like "8.9"."""
    name = call("cuDeviceGetName", 128, device).split(b"\0")[0].decode()
    kinds = driver().CUdevice_attribute
    major = call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return name, f"{major}.{minor}"

"""The GPU that engines are built for and run on. No torch: it is asked through cuda-python."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A CUDA device. `capability` is "8.9" and the like, `driver` the newest CUDA that its driver runs."""

    name: str
    capability: str
    driver: str


def current_device() -> Device | None:
    """The first CUDA device; None without cuda-python, a driver, or a GPU."""
    try:
        from cuda.bindings import driver as cuda
    except ImportError:
        return None
    try:
        (status,) = cuda.cuInit(0)
    except RuntimeError:  # cuda-python raises it where there is no driver library
        return None
    if status != cuda.CUresult.CUDA_SUCCESS:
        return None
    status, device = cuda.cuDeviceGet(0)
    if status != cuda.CUresult.CUDA_SUCCESS:
        return None
    attribute = cuda.CUdevice_attribute
    _, major = cuda.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    _, minor = cuda.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    _, name = cuda.cuDeviceGetName(128, device)
    _, version = cuda.cuDriverGetVersion()
    return Device(
        name=name.split(b"\0")[0].decode(),
        capability=f"{major}.{minor}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )

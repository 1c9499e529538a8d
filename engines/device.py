"""The GPU that engines are built for and run on. No torch: it is asked through cuda-python."""

from dataclasses import dataclass

from flashvsr_trt.errors import DeviceError, MissingDependencyError
from flashvsr_trt.kernels.cuda_driver import call, name_and_capability


@dataclass(frozen=True)
class Device:
    """A CUDA device. `capability` is "8.9" and the like, `driver` the newest CUDA that its driver runs."""

    name: str
    capability: str
    driver: str


def current_device() -> Device | None:
    """The first CUDA device; None without cuda-python, a driver, or a GPU."""
    try:
        call("cuInit", 0)
        handle = call("cuDeviceGet", 0)
        version = call("cuDriverGetVersion")
        name, capability = name_and_capability(handle)
    except (MissingDependencyError, DeviceError):
        return None
    return Device(name, capability, f"{version // 1000}.{version % 1000 // 10}")

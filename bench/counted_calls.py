"""Counting what waits, allocates or copies: calls through our device seam, and anyone's of CUDA's runtime."""

import ctypes
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

SOURCE = Path(__file__).with_name("cuda_calls.c")

RUNTIME_CALLS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cudaMemcpyAsync",
    "cudaMalloc",
    "cudaFree",
    "cudaMallocHost",
    "cudaLaunchHostFunc",
)

DEVICE_CALLS = ("synchronize", "wait_on_host", "allocate", "free", "copy", "upload", "download", "launch")


class CountedCalls:
    """A device that counts DEVICE_CALLS, mixed into one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.calls: Counter[str] = Counter()
        super().__init__(*arguments, **options)

    def __getattribute__(self, name: str) -> Any:
        if name in DEVICE_CALLS:
            self.calls[name] += 1
        return super().__getattribute__(name)


class CountingDevice(CountedCalls, CudaDevice):
    """A CUDA device that counts DEVICE_CALLS."""


def build_counter(folder: Path) -> Path:
    """The library to preload."""
    path = folder / "libcuda_calls.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", path, SOURCE, "-ldl"], check=True)
    return path


def runtime_calls() -> dict[str, int] | None:
    """Calls of CUDA's runtime so far; None where the library is not preloaded."""
    path = os.environ.get("LD_PRELOAD")
    if not path:
        return None
    count = ctypes.CDLL(path).cuda_calls
    count.restype, count.argtypes = ctypes.c_long, [ctypes.c_char_p]
    return {name: count(name.encode()) for name in RUNTIME_CALLS}

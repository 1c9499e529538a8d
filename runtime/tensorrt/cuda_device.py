"""What an executor asks of a GPU: memory, streams, events and graphs, through cuda-python's driver. No torch.

Handles and addresses are integers. Tests have a double of this class in host memory.
"""

import ctypes
import math
from typing import Any

import numpy as np

from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.kernels.cuda_driver import call, check_status, driver, name_and_capability

_MILLISECOND = 1e-3


class CudaDevice:
    """The primary context of one GPU, which TensorRT uses as well.

    Calls that take a stream only put work on it, in order; none waits unless it says so.

    Args:
        index: of the GPU, as CUDA numbers them.

    Raises:
        MissingDependencyError: cuda-python is not installed.
        DeviceError: no driver, or no such GPU; with CUDA's own message. All methods raise it for what CUDA
            refuses.
    """

    def __init__(self, index: int = 0) -> None:
        call("cuInit", 0)
        count = call("cuDeviceGetCount")
        if index >= count:
            raise DeviceError(f"there is no GPU {index}: CUDA sees {count}; choose another --device")
        device = call("cuDeviceGet", index)
        self.context = call("cuDevicePrimaryCtxRetain", device)
        self.activate()
        self.index = index
        self.name, self.capability = name_and_capability(device)

    def activate(self) -> None:
        """Make it the calling thread's device."""
        call("cuCtxSetCurrent", self.context)

    def free_and_total_memory(self) -> tuple[int, int]:
        return call("cuMemGetInfo")

    def allocate(self, size: int) -> int:
        """Address of `size` bytes, aligned to 256. Raises DeviceError where there is no room."""
        return int(call("cuMemAlloc", size, detail=f"of {size:,} bytes"))

    def free(self, address: int) -> None:
        """Give back what `allocate` gave; nothing may be using it."""
        call("cuMemFree", address)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in host memory that copies run from and to while the host goes on."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        address = int(call("cuMemAllocHost", size, detail=f"of {size:,} bytes"))
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(memoryview(memory), dtype).reshape(shape)

    def free_pinned(self, array: np.ndarray) -> None:
        """Give back what `allocate_pinned` gave; the array must not be touched again."""
        call("cuMemFreeHost", array.ctypes.data)

    def zero(self, address: int, size: int, stream: int) -> None:
        call("cuMemsetD8Async", address, 0, size, stream)

    def upload(self, source: np.ndarray, target: int, stream: int) -> None:
        """A pinned array to the device. It must not change before the copy is done."""
        call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, stream)

    def download(self, source: int, target: np.ndarray, stream: int) -> None:
        """Device memory to a pinned array, as many bytes as it has."""
        call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream)

    def copy(self, source: int, target: int, size: int, stream: int) -> None:
        call("cuMemcpyDtoDAsync", target, source, size, stream)

    def new_stream(self) -> int:
        """A stream that does not wait for the default one."""
        return int(call("cuStreamCreate", int(driver().CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        call("cuStreamDestroy", stream)

    def new_event(self) -> int:
        """An event that keeps its time. One that was never recorded is over."""
        return int(call("cuEventCreate", int(driver().CUevent_flags.CU_EVENT_DEFAULT)))

    def destroy_event(self, event: int) -> None:
        call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """The event is over when all that is on the stream by now is done."""
        call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """What is put on the stream from now on runs after the event's last record."""
        call("cuStreamWaitEvent", stream, event, 0)

    def wait_on_host(self, event: int) -> None:
        """Return when the event is over."""
        call("cuEventSynchronize", event)

    def is_over(self, event: int) -> bool:
        """Whether the event is over; returns at once."""
        cuda = driver()
        (status,) = cuda.cuEventQuery(event)
        if status == cuda.CUresult.CUDA_ERROR_NOT_READY:
            return False
        check_status(status, "cuEventQuery")
        return True

    def synchronize(self, stream: int) -> None:
        """Return when all that is on the stream is done."""
        call("cuStreamSynchronize", stream)

    def seconds_between(self, begin: int, end: int) -> float:
        """Time on the device between two events that are over."""
        return call("cuEventElapsedTime", begin, end) * _MILLISECOND

    def begin_capture(self, stream: int) -> None:
        """From now on what this thread puts on the stream is recorded, and does not run."""
        # Other threads of the process, which read and write video, may call CUDA meanwhile.
        mode = driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int, host_memory_lasts: bool) -> int:
        """The recorded work as a graph that can be launched.

        Args:
            host_memory_lasts: whether host memory that the work reads is there at every launch.

        Raises:
            DeviceError: CUDA cannot record the work, or it reads host memory that does not last.
        """
        graph = call("cuStreamEndCapture", stream)
        try:
            found = [] if host_memory_lasts else _host_work(graph)
            if found:
                raise DeviceError(f"the recorded work uses the host's memory: {', '.join(found)}")
            return int(call("cuGraphInstantiate", graph, 0))
        finally:
            driver().cuGraphDestroy(graph)

    def abandon_capture(self, stream: int) -> None:
        """Stop recording and forget what was recorded, after a failure."""
        # That may have ended the capture already: its own error is the one to report.
        cuda = driver()
        status, graph = cuda.cuStreamEndCapture(stream)
        if status == cuda.CUresult.CUDA_SUCCESS:
            cuda.cuGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back; it must not be running."""
        call("cuGraphExecDestroy", graph)


def _host_work(graph: Any) -> list[str]:
    """What a graph would read from the host's memory, or call there."""
    _, count = call("cuGraphGetNodes", graph)
    nodes, _ = call("cuGraphGetNodes", graph, count)
    cuda, found = driver(), []
    for node in nodes:
        kind = call("cuGraphNodeGetType", node)
        if kind == cuda.CUgraphNodeType.CU_GRAPH_NODE_TYPE_HOST:
            found.append("a call on the host")
        elif kind == cuda.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY:
            copy = call("cuGraphMemcpyNodeGetParams", node)
            if copy.srcMemoryType == cuda.CUmemorytype.CU_MEMORYTYPE_HOST:
                found.append(f"a copy of {copy.WidthInBytes * copy.Height * copy.Depth:,} bytes")
    return found


def device_index(name: str) -> int:
    """The GPU that `--device` names: "auto" and "cuda" are the first. Raises UsageError on other names."""
    kind, _, index = name.partition(":")
    if name == "auto" or (kind == "cuda" and (not index or index.isdigit())):
        return int(index or 0)
    raise UsageError(f"engines run on a GPU, and not on --device {name}; use cuda or cuda:N")

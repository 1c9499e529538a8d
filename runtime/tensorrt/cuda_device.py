"""A CUDA device through cuda-python's driver bindings: no torch. Implements `runtime.device.Device`."""

import ctypes
import math
from typing import Any

import numpy as np

from flashvsr_trt.errors import DeviceError, MissingDependencyError, UsageError

try:
    from cuda.bindings import driver as cuda
except ImportError as error:
    raise MissingDependencyError(
        "running engines needs cuda-python: pip install 'flashvsr-trt[rtx]' or 'flashvsr-trt[tensorrt]'"
    ) from error

_MILLISECOND = 1e-3


class CudaDevice:
    """The primary context of one GPU, which TensorRT uses as well.

    Args:
        index: of the GPU, as CUDA numbers them.

    Raises:
        DeviceError: no driver, or no such GPU; with CUDA's own message.
    """

    def __init__(self, index: int = 0) -> None:
        checked("cuInit", lambda: cuda.cuInit(0))
        count = checked("cuDeviceGetCount", cuda.cuDeviceGetCount)
        if index >= count:
            raise DeviceError(f"there is no GPU {index}: CUDA sees {count}; choose another --device")
        device = checked("cuDeviceGet", lambda: cuda.cuDeviceGet(index))
        self.context = checked("cuDevicePrimaryCtxRetain", lambda: cuda.cuDevicePrimaryCtxRetain(device))
        self.activate()
        attribute = cuda.CUdevice_attribute
        major, minor = (
            checked("cuDeviceGetAttribute", lambda kind=kind: cuda.cuDeviceGetAttribute(kind, device))
            for kind in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        name = checked("cuDeviceGetName", lambda: cuda.cuDeviceGetName(128, device))
        self.index = index
        self.name = name.split(b"\0")[0].decode()
        self.capability = f"{major}.{minor}"

    def activate(self) -> None:
        """See `Device.activate`."""
        checked("cuCtxSetCurrent", lambda: cuda.cuCtxSetCurrent(self.context))

    def free_and_total_memory(self) -> tuple[int, int]:
        """See `Device.free_and_total_memory`."""
        return checked("cuMemGetInfo", cuda.cuMemGetInfo)

    def allocate(self, size: int) -> int:
        """See `Device.allocate`."""
        return int(checked(f"cuMemAlloc of {size:,} bytes", lambda: cuda.cuMemAlloc(size)))

    def free(self, address: int) -> None:
        """See `Device.free`."""
        checked("cuMemFree", lambda: cuda.cuMemFree(address))

    def allocate_pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """See `Device.allocate_pinned`."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        address = int(checked(f"cuMemAllocHost of {size:,} bytes", lambda: cuda.cuMemAllocHost(size)))
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def free_pinned(self, array: np.ndarray) -> None:
        """See `Device.free_pinned`."""
        address = array.ctypes.data
        checked("cuMemFreeHost", lambda: cuda.cuMemFreeHost(address))

    def zero(self, address: int, size: int, stream: int) -> None:
        """See `Device.zero`."""
        checked("cuMemsetD8Async", lambda: cuda.cuMemsetD8Async(address, 0, size, stream))

    def upload(self, source: np.ndarray, target: int, stream: int) -> None:
        """See `Device.upload`."""
        address, size = source.ctypes.data, source.nbytes
        checked("cuMemcpyHtoDAsync", lambda: cuda.cuMemcpyHtoDAsync(target, address, size, stream))

    def download(self, source: int, target: np.ndarray, stream: int) -> None:
        """See `Device.download`."""
        address, size = target.ctypes.data, target.nbytes
        checked("cuMemcpyDtoHAsync", lambda: cuda.cuMemcpyDtoHAsync(address, source, size, stream))

    def copy(self, source: int, target: int, size: int, stream: int) -> None:
        """See `Device.copy`."""
        checked("cuMemcpyDtoDAsync", lambda: cuda.cuMemcpyDtoDAsync(target, source, size, stream))

    def new_stream(self) -> int:
        """See `Device.new_stream`."""
        flag = int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        return int(checked("cuStreamCreate", lambda: cuda.cuStreamCreate(flag)))

    def destroy_stream(self, stream: int) -> None:
        """See `Device.destroy_stream`."""
        checked("cuStreamDestroy", lambda: cuda.cuStreamDestroy(stream))

    def new_event(self) -> int:
        """See `Device.new_event`."""
        flag = int(cuda.CUevent_flags.CU_EVENT_DEFAULT)
        return int(checked("cuEventCreate", lambda: cuda.cuEventCreate(flag)))

    def destroy_event(self, event: int) -> None:
        """See `Device.destroy_event`."""
        checked("cuEventDestroy", lambda: cuda.cuEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """See `Device.record`."""
        checked("cuEventRecord", lambda: cuda.cuEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        """See `Device.wait`."""
        checked("cuStreamWaitEvent", lambda: cuda.cuStreamWaitEvent(stream, event, 0))

    def wait_on_host(self, event: int) -> None:
        """See `Device.wait_on_host`."""
        checked("cuEventSynchronize", lambda: cuda.cuEventSynchronize(event))

    def is_over(self, event: int) -> bool:
        """See `Device.is_over`."""
        (status,) = cuda.cuEventQuery(event)
        if status == cuda.CUresult.CUDA_ERROR_NOT_READY:
            return False
        checked("cuEventQuery", lambda: (status,))
        return True

    def synchronize(self, stream: int) -> None:
        """See `Device.synchronize`."""
        checked("cuStreamSynchronize", lambda: cuda.cuStreamSynchronize(stream))

    def seconds_between(self, begin: int, end: int) -> float:
        """See `Device.seconds_between`."""
        return checked("cuEventElapsedTime", lambda: cuda.cuEventElapsedTime(begin, end)) * _MILLISECOND

    def begin_capture(self, stream: int) -> None:
        """See `Device.begin_capture`."""
        # Other threads of the process, which read and write video, may call CUDA meanwhile.
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        checked("cuStreamBeginCapture", lambda: cuda.cuStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int, host_memory_lasts: bool) -> int:
        """See `Device.end_capture`."""
        graph = checked("cuStreamEndCapture", lambda: cuda.cuStreamEndCapture(stream))
        try:
            found = [] if host_memory_lasts else _host_work(graph)
            if found:
                raise DeviceError(f"the recorded work uses the host's memory: {', '.join(found)}")
            return int(checked("cuGraphInstantiate", lambda: cuda.cuGraphInstantiate(graph, 0)))
        finally:
            cuda.cuGraphDestroy(graph)

    def abandon_capture(self, stream: int) -> None:
        """See `Device.abandon_capture`."""
        # The failure that led here may have ended the capture already: its own error is the one to report.
        status, graph = cuda.cuStreamEndCapture(stream)
        if status == cuda.CUresult.CUDA_SUCCESS:
            cuda.cuGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        """See `Device.launch`."""
        checked("cuGraphLaunch", lambda: cuda.cuGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """See `Device.destroy_graph`."""
        checked("cuGraphExecDestroy", lambda: cuda.cuGraphExecDestroy(graph))


def checked(what: str, call) -> Any:
    """The call's result. cuda-python raises RuntimeError where there is no driver at all."""
    try:
        status, *results = call()
    except RuntimeError as error:
        raise DeviceError(f"{what}: {error}; see `flashvsr-trt doctor`") from error
    if status != cuda.CUresult.CUDA_SUCCESS:
        _, text = cuda.cuGetErrorString(status)
        raise DeviceError(f"{what} failed: {text.decode() if text else status}")
    return results[0] if len(results) == 1 else tuple(results)


def _host_work(graph: Any) -> list[str]:
    """What a graph would read from the host's memory, or call there."""
    _, count = checked("cuGraphGetNodes", lambda: cuda.cuGraphGetNodes(graph))
    nodes, _ = checked("cuGraphGetNodes", lambda: cuda.cuGraphGetNodes(graph, count))
    kinds, found = cuda.CUgraphNodeType, []
    for node in nodes:
        kind = checked("cuGraphNodeGetType", lambda node=node: cuda.cuGraphNodeGetType(node))
        if kind == kinds.CU_GRAPH_NODE_TYPE_HOST:
            found.append("a call on the host")
        elif kind == kinds.CU_GRAPH_NODE_TYPE_MEMCPY:
            copy = checked(
                "cuGraphMemcpyNodeGetParams", lambda node=node: cuda.cuGraphMemcpyNodeGetParams(node)
            )
            if copy.srcMemoryType == cuda.CUmemorytype.CU_MEMORYTYPE_HOST:
                found.append(f"a copy of {copy.WidthInBytes * copy.Height * copy.Depth:,} bytes")
    return found


def device_index(name: str) -> int:
    """The GPU that `--device` names: "auto" and "cuda" are the first. Raises UsageError on other names."""
    kind, _, index = name.partition(":")
    if name == "auto" or (kind == "cuda" and (not index or index.isdigit())):
        return int(index or 0)
    raise UsageError(f"engines run on a GPU, and not on --device {name}; use cuda or cuda:N")

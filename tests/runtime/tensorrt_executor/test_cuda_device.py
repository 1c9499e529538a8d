"""The CUDA device: without a driver every call says so, and on a GPU memory, streams and graphs work."""

import numpy as np
import pytest

from flashvsr_trt.engines.device import current_device
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

HAS_GPU = current_device() is not None

ARRAY = np.zeros(16, np.uint8)

CALLS = {
    "free_and_total_memory": (),
    "allocate": (256,),
    "free": (4096,),
    "allocate_pinned": ((4, 4), np.uint8),
    "free_pinned": (ARRAY,),
    "zero": (4096, 16, 1),
    "upload": (ARRAY, 4096, 1),
    "download": (4096, ARRAY, 1),
    "copy": (4096, 8192, 16, 1),
    "new_stream": (),
    "destroy_stream": (1,),
    "new_event": (),
    "destroy_event": (1,),
    "record": (1, 1),
    "wait": (1, 1),
    "wait_on_host": (1,),
    "synchronize": (1,),
    "seconds_between": (1, 1),
    "begin_capture": (1,),
    "end_capture": (1, True),
    "launch": (1, 1),
    "destroy_graph": (1,),
}


@pytest.mark.skipif(HAS_GPU, reason="these handles are made up: only where no driver takes them")
@pytest.mark.parametrize("name", CALLS)
def test_integers_are_taken_as_handles_and_a_missing_driver_is_named(name):
    device = object.__new__(CudaDevice)
    with pytest.raises(DeviceError, match=r"cu[A-Z]"):
        getattr(device, name)(*CALLS[name])


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_opening_a_device_without_a_driver_names_the_doctor():
    with pytest.raises(DeviceError, match="cuInit"):
        CudaDevice()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
def test_a_captured_copy_moves_bytes_each_time_it_is_launched():
    device = CudaDevice()
    stream, begin, end = device.new_stream(), device.new_event(), device.new_event()
    source, target = device.allocate(16), device.allocate(16)
    sent, received = (device.allocate_pinned((16,), np.uint8) for _ in range(2))
    device.begin_capture(stream)
    device.upload(sent, source, stream)
    device.copy(source, target, 16, stream)
    device.download(target, received, stream)
    graph = device.end_capture(stream, True)
    for value in (3, 7):
        sent[:] = value
        device.record(begin, stream)
        device.launch(graph, stream)
        device.record(end, stream)
        device.wait_on_host(end)
        assert (received == value).all()
        assert device.seconds_between(begin, end) >= 0
    device.destroy_graph(graph)
    for address in (source, target):
        device.free(address)
    for array in (sent, received):
        device.free_pinned(array)

"""The GPU memory of ONNX Runtime's sessions, given out by us: what a run takes comes from the arena.

ONNX Runtime asks one allocator a process, through function pointers. While a context runs, that is its
scratch memory, laid out anew and alike each time, so that a CUDA graph of the run stays right. At all other
times it is memory of the device.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flashvsr_trt.errors import EngineError
from flashvsr_trt.runtime.tensorrt.arena import aligned, lowest_gap
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

ALLOC_TYPE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)
FREE_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
EMPTY_TYPE = ctypes.CFUNCTYPE(None)


class Gaps:
    """Lowest free place first, from offset 0 upwards: the same calls give the same offsets.

    Args:
        size: bytes that there are; None is without bound.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.taken: dict[int, int] = {}
        self.peak = 0

    def take(self, size: int) -> int | None:
        """The offset of `size` bytes; None where there is no room. No bytes have a place of their own too."""
        size = aligned(max(size, 1))
        start = lowest_gap(self.taken.items(), size)
        if self.size is not None and start + size > self.size:
            return None
        self.taken[start] = start + size
        self.peak = max(self.peak, start + size)
        return start

    def give(self, offset: int) -> None:
        """Free what starts there. Raises KeyError if nothing does."""
        del self.taken[offset]


class ScratchRegion:
    """Scratch memory of one run: `size` bytes from `base`."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.gaps = base, Gaps(size)

    def take(self, size: int) -> int:
        """Address of `size` bytes, aligned to 256; 0 where there is no room."""
        offset = self.gaps.take(size)
        return 0 if offset is None else self.base + offset

    def give(self, address: int) -> bool:
        """Take an address back; False if it is none of this region's."""
        if not 0 <= address - self.base < (self.gaps.size or 1):
            return False
        self.gaps.give(address - self.base)
        return True


class MeasuringRegion:
    """Device memory, with a count of what scratch memory the same calls would take: `gaps.peak`."""

    def __init__(self, device: CudaDevice) -> None:
        self.device, self.gaps = device, Gaps()
        self.offsets: dict[int, int | None] = {}

    def take(self, size: int) -> int:
        address = self.device.allocate(size)
        self.offsets[address] = self.gaps.take(size)
        return address

    def give(self, address: int) -> bool:
        """The driver frees memory once what is on the device is done with it."""
        offset = self.offsets.pop(address, None)
        if offset is None:
            return False
        self.gaps.give(offset)
        self.device.free(address)
        return True


class SessionMemory:
    """What ONNX Runtime's function pointers call. One thread's region is not another's.

    Attributes:
        held: address -> bytes of what sessions keep beyond a run.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self.held: dict[int, int] = {}
        self._lock = threading.Lock()
        self._thread = threading.local()
        # ONNX Runtime keeps the pointers for good: they must not be collected.
        self.functions = (ALLOC_TYPE(self.take), FREE_TYPE(self.give), EMPTY_TYPE(lambda: None))

    @property
    def pointers(self) -> dict[str, str]:
        """The provider options that name the functions."""
        names = ("gpu_external_alloc", "gpu_external_free", "gpu_external_empty_cache")
        return {
            name: str(ctypes.cast(function, ctypes.c_void_p).value)
            for name, function in zip(names, self.functions, strict=True)
        }

    @contextmanager
    def serving(self, region: ScratchRegion | MeasuringRegion | None) -> Iterator[None]:
        """This thread's allocations come from `region`; None is the device.

        Raises:
            EngineError: what an allocation failed with, which ONNX Runtime cannot hand on.
        """
        before = getattr(self._thread, "region", None)
        self._thread.region, self._thread.problem = region, None
        try:
            yield
        except Exception as error:
            if self._thread.problem is None:
                raise
            raise EngineError(f"ONNX Runtime got no memory: {self._thread.problem}") from error
        finally:
            self._thread.region = before
        if self._thread.problem is not None:
            raise EngineError(f"ONNX Runtime and its memory disagree: {self._thread.problem}")

    def take(self, size: int | None) -> int:
        """The allocation function. Raises nothing: it is called by native code."""
        try:
            region = getattr(self._thread, "region", None)
            if region is not None:
                address = region.take(size or 0)
                if not address:
                    self._thread.problem = f"a run wants {size:,} bytes more scratch memory than was measured"
                return address
            address = self.device.allocate(size or 0)
            with self._lock:
                self.held[address] = size or 0
            return address
        except Exception as error:
            self._thread.problem = str(error)
            return 0

    def give(self, address: int | None) -> None:
        """The function that frees. Raises nothing."""
        if not address:
            return
        try:
            with self._lock:
                held = self.held.pop(address, None) is not None
            region = getattr(self._thread, "region", None)
            if held:
                self.device.free(address)
            elif region is None or not region.give(address):
                self._thread.problem = f"address {address:#x} was freed and is not held"
        except Exception as error:
            self._thread.problem = str(error)

"""The device double on real addresses, so that a library which is handed them can use them."""

from dataclasses import dataclass, field

import numpy as np

from flashvsr_trt.errors import DeviceError
from tests.runtime.device_double import DeviceDouble

ALIGNMENT = 256


@dataclass
class HostDevice(DeviceDouble):
    """Addresses are those of host memory."""

    owners: dict[int, np.ndarray] = field(default_factory=dict)

    def allocate(self, size: int) -> int:
        if self.taken + size > self.total:
            raise DeviceError(f"out of memory: {size}")
        owner = np.full(size + ALIGNMENT, 0xA5, np.uint8)
        start = -owner.ctypes.data % ALIGNMENT
        address = owner.ctypes.data + start
        self.owners[address] = owner
        self.blocks[address] = owner[start : start + size]
        self.taken += size
        return address

    def free(self, address: int) -> None:
        super().free(address)
        del self.owners[address]

"""The large matrices of ONNX Runtime's segments on the device: each once, however many segments read it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashvsr_trt.errors import EngineError
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

Place = Mapping[str, Any]
"""Where a matrix is, as `engines.manifest.WEIGHTS_KEY` says."""


class SharedWeights:
    """Matrices by where their bytes are in the weights file.

    Args:
        folder: of the engines and the weights file.
        stream: that copies are put on.
    """

    def __init__(self, device: CudaDevice, folder: Path, stream: int) -> None:
        self.device, self.folder, self.stream = device, folder, stream
        self.addresses: dict[tuple, int] = {}
        self.readers: Counter[tuple] = Counter()

    def take(self, place: Place) -> int:
        """Address of a matrix, which is copied to the device for its first reader.

        Raises:
            EngineError: the file has not its bytes.
            DeviceError: the device has no room for it.
        """
        key = _key(place)
        if key not in self.addresses:
            self.addresses[key] = self._upload(place)
        self.readers[key] += 1
        return self.addresses[key]

    def give(self, place: Place) -> None:
        """One reader less; the last one's leaving frees the matrix, which nothing may be using."""
        key = _key(place)
        self.readers[key] -= 1
        if not self.readers[key]:
            self.device.free(self.addresses.pop(key))

    def _upload(self, place: Place) -> int:
        path, size = self.folder / place["file"], place["size_bytes"]
        pinned = self.device.allocate_pinned((size,), np.dtype(np.uint8))
        try:
            with path.open("rb") as file:
                file.seek(place["offset"])
                read = file.readinto(pinned.data)
            if read != size:
                raise EngineError(
                    f"{path} ends {size - read:,} bytes before its weights do; build the engines again"
                )
            address = self.device.allocate(size)
            self.device.upload(pinned, address, self.stream)
            self.device.synchronize(self.stream)
        finally:
            self.device.free_pinned(pinned)
        return address


def _key(place: Place) -> tuple:
    return place["file"], place["offset"], place["size_bytes"]

"""What an executor asks of a GPU: memory, streams, events and graphs. Handles and addresses are integers."""

from typing import Protocol

import numpy as np


class Device(Protocol):
    """One GPU. Calls that take a stream only put work on it, in order; none waits unless it says so."""

    name: str
    capability: str

    def activate(self) -> None:
        """Make it the calling thread's device."""

    def free_and_total_memory(self) -> tuple[int, int]:
        """Bytes of device memory."""

    def allocate(self, size: int) -> int:
        """Address of `size` bytes, aligned to 256. Raises DeviceError where there is no room."""

    def free(self, address: int) -> None:
        """Give back what `allocate` gave; nothing may be using it."""

    def allocate_pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in host memory that copies run from and to while the host goes on."""

    def free_pinned(self, array: np.ndarray) -> None:
        """Give back what `allocate_pinned` gave; the array must not be touched again."""

    def zero(self, address: int, size: int, stream: int) -> None:
        """Fill with zero bytes."""

    def upload(self, source: np.ndarray, target: int, stream: int) -> None:
        """A pinned array to the device. It must not change before the copy is done."""

    def download(self, source: int, target: np.ndarray, stream: int) -> None:
        """Device memory to a pinned array, as many bytes as it has."""

    def copy(self, source: int, target: int, size: int, stream: int) -> None:
        """Device memory to device memory."""

    def new_stream(self) -> int:
        """A stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def new_event(self) -> int:
        """An event that keeps its time. One that was never recorded is over."""

    def destroy_event(self, event: int) -> None:
        """Give an event back."""

    def record(self, event: int, stream: int) -> None:
        """The event is over when all that is on the stream by now is done."""

    def wait(self, stream: int, event: int) -> None:
        """What is put on the stream from now on runs after the event's last record."""

    def wait_on_host(self, event: int) -> None:
        """Return when the event is over."""

    def is_over(self, event: int) -> bool:
        """Whether the event is over; returns at once."""

    def synchronize(self, stream: int) -> None:
        """Return when all that is on the stream is done."""

    def seconds_between(self, begin: int, end: int) -> float:
        """Time on the device between two events that are over."""

    def begin_capture(self, stream: int) -> None:
        """From now on what this thread puts on the stream is recorded, and does not run."""

    def end_capture(self, stream: int, host_memory_lasts: bool) -> int:
        """The recorded work as a graph that can be launched.

        Args:
            host_memory_lasts: whether host memory that the work reads is there at every launch.

        Raises:
            DeviceError: CUDA cannot record the work, or it reads host memory that does not last.
        """

    def abandon_capture(self, stream: int) -> None:
        """Stop recording and forget what was recorded, after a failure."""

    def launch(self, graph: int, stream: int) -> None:
        """Run a graph's work on the stream."""

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back; it must not be running."""

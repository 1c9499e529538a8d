"""A GPU in host memory: streams are queues that run as late as they may, or as soon, so that order is proved.

Work runs only when something waits for it, except on streams that run ahead: those run whatever their events
let them. A wait that an executor forgets then shows as wrong frames.
"""

import bisect
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from flashvsr_trt.errors import DeviceError


@dataclass
class Marker:
    """One record of an event: where in its stream, and when it was over."""

    stream: int
    time: int | None = None


@dataclass
class Graph:
    """Captured work."""

    work: list[Callable[[], None]]


@dataclass
class DeviceDouble:
    """Stands for `CudaDevice`; `log` has every call that puts work on a stream, in order."""

    total: int = 2**34
    ahead: frozenset[int] = frozenset()
    name: str = "a GPU in host memory"
    capability: str = "8.9"
    log: list[tuple] = field(default_factory=list)
    taken: int = 0
    blocks: dict[int, np.ndarray] = field(default_factory=dict)
    queues: dict[int, deque] = field(default_factory=lambda: defaultdict(deque))
    markers: dict[int, Marker | None] = field(default_factory=dict)
    graphs: dict[int, Graph] = field(default_factory=dict)
    capturing: dict[int, list] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    next_address: int = 2**20
    handles: int = 0
    clock: int = 0
    refuse_capture: bool = False

    def activate(self) -> None:
        pass

    def free_and_total_memory(self) -> tuple[int, int]:
        return self.total - self.taken, self.total

    def allocate(self, size: int) -> int:
        if self.taken + size > self.total:
            raise DeviceError(f"out of memory: {size}")
        address = self.next_address
        self.next_address += -(-size // 256) * 256 + 4096
        # What was never written is noise, as on a GPU.
        self.blocks[address] = np.full(size, 0xA5, np.uint8)
        self.taken += size
        return address

    def free(self, address: int) -> None:
        self.taken -= self.blocks.pop(address).size

    def memory(self, address: int, size: int) -> np.ndarray:
        """The bytes at an address, which must lie inside one allocation."""
        starts = sorted(self.blocks)
        start = starts[bisect.bisect_right(starts, address) - 1]
        offset = address - start
        assert offset >= 0
        assert offset + size <= self.blocks[start].size, "out of bounds"
        return self.blocks[start][offset : offset + size]

    def array(self, address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A tensor at an address."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.memory(address, size).view(dtype).reshape(shape)

    def allocate_pinned(self, shape, dtype) -> np.ndarray:
        array = np.zeros(shape, dtype)
        self.pinned.add(id(array))
        return array

    def free_pinned(self, array) -> None:
        self.pinned.remove(id(array))

    def zero(self, address, size, stream) -> None:
        self.put(stream, ("zero", address, size), lambda: self.memory(address, size).fill(0))

    def is_pinned(self, array: np.ndarray) -> bool:
        """Whether it is an array that `allocate_pinned` gave, or a part of one."""
        return id(array) in self.pinned or (array.base is not None and self.is_pinned(array.base))

    def upload(self, source, target, stream) -> None:
        assert self.is_pinned(source)

        def copy() -> None:
            self.memory(target, source.nbytes)[:] = np.atleast_1d(source).view(np.uint8).ravel()

        self.put(stream, ("upload", target), copy)

    def download(self, source, target, stream) -> None:
        assert self.is_pinned(target)

        def copy() -> None:
            target[...] = self.array(source, target.shape, target.dtype)

        self.put(stream, ("download", source), copy)

    def copy(self, source, target, size, stream) -> None:
        def move() -> None:
            self.memory(target, size)[:] = self.memory(source, size)

        self.put(stream, ("copy", source, target), move)

    def new_stream(self) -> int:
        return self._handle()

    def destroy_stream(self, stream) -> None:
        assert not self.queues.pop(stream, None)

    def new_event(self) -> int:
        event = self._handle()
        self.markers[event] = None
        return event

    def destroy_event(self, event) -> None:
        del self.markers[event]

    def record(self, event, stream) -> None:
        assert stream not in self.capturing
        marker = self.markers[event] = Marker(stream)
        self.log.append(("record", stream, event))
        self.queues[stream].append(marker)
        self._run_ahead()

    def wait(self, stream, event) -> None:
        assert stream not in self.capturing
        self.log.append(("wait", stream, event))
        if self.markers[event] is not None:
            self.queues[stream].append(("wait", self.markers[event]))
        self._run_ahead()

    def wait_on_host(self, event) -> None:
        marker = self.markers[event]
        if marker is not None:
            self._run_until(marker)

    def is_over(self, event) -> bool:
        marker = self.markers[event]
        return marker is None or marker.time is not None

    def synchronize(self, stream) -> None:
        assert stream not in self.capturing
        self.log.append(("synchronize", stream))
        self._run_until(None, stream)

    def seconds_between(self, begin, end) -> float:
        return float(self.markers[end].time - self.markers[begin].time)

    def begin_capture(self, stream) -> None:
        assert not self.queues[stream], "captured while plain work was still waiting"
        self.log.append(("begin_capture", stream))
        self.capturing[stream] = []

    def end_capture(self, stream, host_memory_lasts) -> int:
        work = self.capturing.pop(stream)
        if self.refuse_capture:
            raise DeviceError("cuStreamEndCapture failed: operation not permitted")
        graph = self._handle()
        self.graphs[graph] = Graph(work)
        self.log.append(("end_capture", stream, graph))
        return graph

    def abandon_capture(self, stream) -> None:
        del self.capturing[stream]
        self.log.append(("abandon_capture", stream))

    def launch(self, graph, stream) -> None:
        self.log.append(("launch", stream, graph))
        self.queues[stream] += [("run", work) for work in self.graphs[graph].work]
        self._run_ahead()

    def destroy_graph(self, graph) -> None:
        del self.graphs[graph]

    def put(self, stream: int, entry: tuple, work: Callable[[], None]) -> None:
        """Put work on a stream, or into the graph that is captured on it."""
        self.log.append((entry[0], stream, *entry[1:]))
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            self.queues[stream].append(("run", work))
        self._run_ahead()

    def _handle(self) -> int:
        self.handles += 1
        return self.handles

    def _run_ahead(self) -> None:
        progress = True
        while progress:
            progress = False
            for stream in self.ahead:
                queue = self.queues[stream]
                while queue and self._may_run(queue[0]):
                    self._run(queue.popleft())
                    progress = True

    def _may_run(self, entry) -> bool:
        return isinstance(entry, Marker) or entry[0] == "run" or entry[1].time is not None

    def _run_until(self, marker: Marker | None, stream: int | None = None) -> None:
        """All of a stream, or what a marker waits for and nothing else."""
        queue = self.queues[marker.stream if marker else stream]
        while queue and (marker is None or marker.time is None):
            entry = queue.popleft()
            if not self._may_run(entry):
                self._run_until(entry[1])
            self._run(entry)

    def _run(self, entry) -> None:
        self.clock += 1
        if isinstance(entry, Marker):
            entry.time = self.clock
        elif entry[0] == "run":
            entry[1]()

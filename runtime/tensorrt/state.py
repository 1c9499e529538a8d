"""What one clip carries through the TensorRT executor: memory, CUDA graphs, and where its units are."""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from flashvsr_trt.config.signatures import DECODE, DIT_FIRST, ENCODE, StreamConfig, stage_of
from flashvsr_trt.runtime.tensorrt.clip_memory import ClipMemory, buffer_name, unit_places
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice
from flashvsr_trt.runtime.tensorrt.cuda_graphs import GraphCache


class DecodingFrames:
    """Frames that are on their way to the host; `read` is a `runtime.executor.PendingFrames`."""

    def __init__(self, device: CudaDevice, downloaded: int, pinned: np.ndarray) -> None:
        self.device, self.downloaded, self.pinned = device, downloaded, pinned
        self.frames: np.ndarray | None = None
        self.taken = False

    def read(self) -> np.ndarray:
        """uint8 [8, tH, tW, 3], once they are there. To be called once."""
        self.keep()
        frames, self.frames, self.taken = self.frames, None, True
        if frames is None:
            raise ValueError("frames were read before: they are given once")
        return frames

    def keep(self) -> None:
        """Take the frames out of the pinned memory, which the next unit in this place needs."""
        if self.frames is None and not self.taken:
            self.device.activate()
            self.device.wait_on_host(self.downloaded)
            self.frames = self.pinned.copy()


@dataclass(frozen=True)
class HostInputs:
    """Events of buffers that the host fills: `uploaded` by its copies, `read` by the run that reads them."""

    uploaded: int
    read: int


@dataclass(frozen=True)
class Turn:
    """What one run of a graph waits for and what waits for it, as events.

    Attributes:
        inputs: of what the host gives; None where it gives nothing.
        before: what the run itself comes after.
        after: what is over with it.
    """

    inputs: HostInputs | None
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass
class UnitPlace:
    """The buffers of one unit in flight, and the events that say when each may be used again."""

    memory: ClipMemory
    number: int
    frames: HostInputs
    step: HostInputs
    decoded: int
    downloaded: int
    decoding: DecodingFrames | None = None

    @property
    def half(self) -> int:
        """Which half of the state the unit's stages read; they write the other."""
        return self.number % 2

    def buffer(self, graph: str, tensor: str) -> str:
        return buffer_name(graph, tensor, self.number)


@dataclass(frozen=True)
class UnitTensor:
    """An executor's handle of what a graph made of a unit: it is in the unit's place."""

    place: UnitPlace
    graph: str
    name: str


class ClipState:
    """One clip's memory and progress. It is given back when nothing refers to the state any more.

    Args:
        owner: of the streams, which must outlive the clip.
        streams: that the clip's work is put on.
        capture: whether its graphs are replayed as CUDA graphs.
        ring: addresses of the K/V ring's tensors where other clips use them in turn.

    Raises:
        DeviceError: the device has no room for it.
    """

    def __init__(
        self,
        owner: object,
        device: CudaDevice,
        stream: StreamConfig,
        compute: str,
        streams: tuple[int, ...],
        capture: bool,
        ring: Mapping[str, int] | None = None,
    ) -> None:
        self.owner = owner
        self.memory = ClipMemory(device, stream, compute, streams[0], ring)
        self.graphs = GraphCache(device, capture)
        events = [device.new_event() for _ in range(6 * unit_places(stream) + 2)]
        unused = iter(events)
        self.first_step = HostInputs(next(unused), next(unused))
        self.places = [self._new_place(number, unused) for number in range(unit_places(stream))]
        self.encoded_units = 0
        self.release = weakref.finalize(self, _release, device, streams, self.memory, self.graphs, events)
        self.release.atexit = False

    def _new_place(self, number: int, unused: Iterator[int]) -> UnitPlace:
        uploaded, encoded, step_uploaded, denoised, decoded, downloaded = islice(unused, 6)
        frames, step = HostInputs(uploaded, encoded), HostInputs(step_uploaded, denoised)
        return UnitPlace(self.memory, number, frames, step, decoded, downloaded)

    def reset(self, stream: int) -> None:
        """Zero the clip's memory for the next one; nothing may be using it. CUDA graphs are kept."""
        self.memory.zero(stream)
        for place in self.places:
            place.decoding = None
        self.encoded_units = 0

    def next_place(self) -> UnitPlace:
        place = self.places[self.encoded_units % len(self.places)]
        self.encoded_units += 1
        return place

    def turn(self, graph: str, places: list[UnitPlace]) -> Turn:
        """The events of a graph's next run on the units in these places."""
        place = places[0]
        if graph == ENCODE:
            # The place's condition is free once the unit before in it was decoded.
            return Turn(place.frames, (place.frames.uploaded, place.decoded), (place.frames.read,))
        if stage_of(graph) == DECODE:
            return Turn(None, (place.step.read, place.downloaded), (place.decoded,))
        step = self.first_step if graph == DIT_FIRST else place.step
        denoised = dict.fromkeys((step.read, *(place.step.read for place in places)))
        return Turn(step, (step.uploaded,), tuple(denoised))


def _release(
    device: CudaDevice, streams: tuple[int, ...], memory: ClipMemory, graphs: GraphCache, events: list[int]
) -> None:
    device.activate()
    for stream in streams:
        device.synchronize(stream)
    graphs.release()
    memory.release()
    for event in events:
        device.destroy_event(event)

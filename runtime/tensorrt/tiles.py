"""Where the tiles of engines wait: with their K/V rings on the GPU, or with these in pinned host memory.

A graph of engines binds the rings of all layers at fixed addresses. So where they wait on the host a tile's
ring comes to one of a few places whole, on a stream of its own while another tile runs, and what a step wrote
leaves it. All else of a tile stays on the GPU: its CUDA graphs, and the units that are in flight.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from flashvsr_trt.config.signatures import DIT, Role, StreamConfig, carried_tensors
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.memory import GIB
from flashvsr_trt.notices import Notify
from flashvsr_trt.process_memory import free_host_memory
from flashvsr_trt.runtime.choose_tiles import as_vram, counted, least_vram
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.tensorrt.clip_memory import clip_layout, ring_layout
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from flashvsr_trt.runtime.tensorrt.state import ClipState
from flashvsr_trt.runtime.tiles import TiledExecutor

RING_PLACES = (2, 1)
"""Rings on the GPU where they wait on the host: with two, one comes while another is used."""


def in_tiles(
    executor: TensorRTExecutor, stream: StreamConfig, plan: TilePlan, vram: int | None, notify: Notify
) -> TiledExecutor:
    """Whole frames on an executor of the plan's tiles, whose rings wait where they fit; said in one line.

    Args:
        vram: bytes that engines, their working memory and all tiles may take; None is what there is.

    Raises:
        UsageError: `vram` is below the least that these tiles need.
        DeviceError: the GPU or the host has too little memory for them.
    """
    count, compute = len(plan.tiles), executor.bundle.compute
    own = clip_layout(executor.stream, compute, with_ring=False).size
    ring = ring_layout(executor.stream, compute).size
    loaded = executor.needed.weights + executor.needed.working
    free = executor.device.free_and_total_memory()[0]
    room = min(free, free if vram is None else vram - loaded)
    announced = counted(plan)
    for places in (count, *(places for places in RING_PLACES if places < count)):
        needed = count * own + places * ring
        if needed <= room:
            break
    else:
        if vram is not None and room < free:
            raise UsageError(
                f"--vram {as_vram(vram)} is too little: {announced} need {least_vram(loaded + needed)} "
                "with these engines"
            )
        raise DeviceError(
            f"{announced} carry {needed / GIB:.2f} GiB from chunk to chunk, and {executor.device.name} has "
            f"{free / GIB:.2f} GiB left; build engines of smaller tiles, or use --backend torch"
        )
    notify(f"{announced}: {(loaded + needed) / GIB:.2f} GiB of {(loaded + room) / GIB:.2f} GiB")
    if places == count:
        return TiledExecutor(executor, stream, plan)
    if count * ring > (host := free_host_memory()):
        raise DeviceError(
            f"{count} tiles that wait take {count * ring / GIB:.1f} GiB of host memory, and {host / GIB:.1f} "
            "GiB are free; give more --vram, or smaller frames"
        )
    notify(f"K/V rings wait in {count * ring / GIB:.1f} GiB of host memory, {places} at a time on the GPU")
    new_states = partial(RingsFromHost, executor, count, places)
    return TiledExecutor(executor, stream, plan, new_states=new_states)


class RingsFromHost:
    """Implements `runtime.tiles.TileStates`: a tile's ring is on the GPU while its DiT steps run.

    All calls of a DiT step go tile by tile, in order.

    Args:
        count: of tiles.
        places: rings on the GPU, which tiles use in turn.

    Raises:
        DeviceError: the GPU or the host has no room for the states.
    """

    def __init__(self, executor: TensorRTExecutor, count: int, places: int) -> None:
        device = executor.device
        device.activate()
        self.executor, self.device, self.count = executor, device, count
        compute = executor.bundle.compute
        layout = ring_layout(executor.stream, compute)
        ring = [spec for spec in carried_tensors(executor.signatures) if spec.role is Role.RING]
        slots = executor.stream.preset.attention.ring_slots
        # In host memory slot by slot, each with all layers' tensors one after another.
        self.rows = {spec.name: spec.size_bytes(compute) // slots for spec in ring}
        self.loading, self.storing = streams = device.new_stream(), device.new_stream()
        self.loaded, self.done, self.emptied = ([device.new_event() for _ in range(places)] for _ in range(3))
        events = (*self.loaded, *self.done, *self.emptied)
        self.blocks: list[int] = []
        self.waiting: list[np.ndarray] = []
        self.fetched = 0
        given = device, executor.streams, streams, events, self.blocks, self.waiting
        weakref.finalize(self, _release, *given).atexit = False
        for _ in range(places):
            self.blocks.append(device.allocate(layout.size))
        self.addresses = [
            {name: block + offset for name, offset in layout.offsets.items()} for block in self.blocks
        ]
        for _ in range(count):
            self.waiting.append(device.allocate_pinned((slots, sum(self.rows.values())), np.dtype(np.uint8)))
        self.states = [executor.new_state(self.addresses[number % places]) for number in range(count)]
        # What no step wrote is never seen, but it must be numbers.
        for block in self.blocks:
            device.zero(block, layout.size, self.loading)
        device.synchronize(self.loading)

    @contextmanager
    def use(self, number: int, stage: str, step: RingStep | None = None) -> Iterator[ClipState]:
        if stage != DIT:
            yield self.states[number]
            return
        assert step is not None
        device, compute, at = self.device, self.executor.compute, number % len(self.blocks)
        device.activate()
        if number == 0:
            self.fetched = 0
        self._fetch_until(number + len(self.blocks), step)
        device.wait(compute, self.loaded[at])
        yield self.states[number]
        device.record(self.done[at], compute)
        device.wait(self.storing, self.done[at])
        for address, kept in self._rows(number, at, step.written):
            device.download(address, kept, self.storing)
        device.record(self.emptied[at], self.storing)

    def _fetch_until(self, turn: int, step: RingStep) -> None:
        """Start to bring the rings of the tiles before that one, each to the place that is its turn's."""
        while self.fetched < min(turn, self.count):
            at = self.fetched % len(self.blocks)
            # By then what the step before wrote of this tile is on the host as well: it left the same place.
            self.device.wait(self.loading, self.emptied[at])
            for address, kept in self._rows(self.fetched, at, step.seen):
                self.device.upload(kept, address, self.loading)
            self.device.record(self.loaded[at], self.loading)
            self.fetched += 1

    def _rows(self, number: int, at: int, slots: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
        """Each tensor's rows of these slots: the address in a place, and where tile `number` keeps them."""
        for slot in slots:
            start, kept = 0, self.waiting[number][slot]
            for name, size in self.rows.items():
                yield self.addresses[at][name] + slot * size, kept[start : start + size]
                start += size

    def reset(self) -> None:
        """See `TileStates.reset`. Rings keep what the last clip wrote: none of it is seen."""
        for stream in (self.loading, self.storing):
            self.device.synchronize(stream)
        for state in self.states:
            self.executor.reset_state(state)


def _release(
    device: CudaDevice,
    used_by: tuple[int, ...],
    streams: tuple[int, ...],
    events: tuple[int, ...],
    blocks: list[int],
    waiting: list[np.ndarray],
) -> None:
    device.activate()
    for stream in (*used_by, *streams):
        device.synchronize(stream)
    for stream in streams:
        device.destroy_stream(stream)
    for event in events:
        device.destroy_event(event)
    for block in blocks:
        device.free(block)
    for kept in waiting:
        device.free_pinned(kept)

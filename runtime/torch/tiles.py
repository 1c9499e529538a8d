"""Tiles that take turns in a few states of a GPU, whose addresses CUDA graphs know.

What a tile carries is parked while others run: rings on the GPU where all fit, else in pinned host memory,
where one place is filled and another one emptied on streams of their own while a tile runs. Encoding's and
decoding's states are small, and always stay on the GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from flashvsr_trt.config.signatures import DIT, ENCODE, StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.tiles import TiledExecutor
from flashvsr_trt.runtime.torch.device import HOST_PLACES
from flashvsr_trt.runtime.torch.host_memory import free_host_memory
from flashvsr_trt.runtime.torch.whole_frames import TorchFrames

Tensors = list[torch.Tensor]


def in_tiles(executor, stream: StreamConfig, plan: TilePlan, on_host: bool = True) -> TiledExecutor:
    """Whole frames on a `TorchExecutor` of the plan's tiles; on a GPU rings wait on the host, or there."""
    streams = executor.encoding, executor.decoding
    frames = TorchFrames(stream, plan, executor.device, executor.dtype, streams, executor._stage)
    count, new_states = len(plan.tiles), None
    if executor.device.type == "cuda" and count > 1:
        new_states = partial(TilePlaces, executor, count, on_host)
    return TiledExecutor(executor, stream, plan, frames, new_states)


class TilePlaces:
    """Implements `runtime.tile_states.TileStates` for the torch executor on a GPU.

    Args:
        executor: a `TorchExecutor` of the tiles' stream.
        count: of tiles.
        on_host: whether rings are parked in host memory.

    Raises:
        DeviceError: the GPU or the host has no room for the states.
    """

    def __init__(self, executor, count: int, on_host: bool) -> None:
        self.executor, self.count, self.on_host = executor, count, on_host
        self.places = [executor.new_state() for _ in range(HOST_PLACES if on_host else 1)]
        first, *others = self.places
        for place in others:
            place.encode, place.memory = [], []
            if place.graphs:
                # Steps of both places run one after another on one stream, so their graphs share memory.
                place.graphs.pool, place.graphs.stream = first.graphs.pool, first.graphs.stream
        if on_host:
            needed, free = count * sum(x.nbytes for x in ring_of(first)), free_host_memory()
            if needed > free:
                raise DeviceError(
                    f"the K/V rings of {count} tiles take {needed / 2**30:.1f} GiB of host memory, and "
                    f"{free / 2**30:.1f} GiB are free; give more --vram, or smaller frames"
                )
        parked = pinned_zeros if on_host else torch.zeros_like
        try:
            self.encode = [[x.clone() for x in first.encode] for _ in range(count)]
            self.memory = [[x.clone() for x in first.memory] for _ in range(count)]
            self.rings = [[parked(x) for x in ring_of(first)] for _ in range(count)]
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{executor.device} has too little memory for these tiles: {error}") from error
        self.loading, self.storing = (torch.cuda.Stream(executor.device) for _ in range(2))
        self.loaded = [torch.cuda.Event() for _ in self.places]
        self.emptied = [torch.cuda.Event() for _ in self.places]
        self.stored = [torch.cuda.Event() for _ in range(count)]
        self.turn = 0
        self.ahead: tuple[int, tuple[int, ...]] | None = None
        torch.cuda.synchronize(executor.device)

    @contextmanager
    def use(self, number: int, stage: str, step: RingStep | None = None) -> Iterator:
        """See `TileStates.use`."""
        if stage == DIT:
            assert step is not None
            with self._ring(number, step) as place:
                yield place
            return
        place, stream, kept = self.places[0], self.executor.decoding, self.memory[number]
        own = place.memory
        if stage == ENCODE:
            stream, kept, own = self.executor.encoding, self.encode[number], place.encode
        with torch.cuda.stream(stream):
            copy_all(kept, own)
        yield place
        with torch.cuda.stream(stream):
            copy_all(own, kept)

    @contextmanager
    def _ring(self, number: int, step: RingStep) -> Iterator:
        """A DiT step's place. What it sees is brought there, and what it wrote is parked behind it."""
        at, seen = self.turn % len(self.places), tuple(slot for slot, valid in enumerate(step.valid) if valid)
        written = tuple(range(step.slots.start, step.slots.stop))
        if not (self.ahead and self.ahead[0] == number and set(seen) <= set(self.ahead[1])):
            self._load(number, at, seen)
        self.turn += 1
        running = torch.cuda.current_stream(self.executor.device)
        running.wait_event(self.loaded[at])
        if self.on_host:
            self._load_ahead(number, step, seen)
        yield self.places[at]
        done = running.record_event()
        storing = self.storing if self.on_host else running
        storing.wait_event(done)
        with torch.cuda.stream(storing):
            copy_slots(ring_of(self.places[at]), self.rings[number], written)
            self.stored[number].record()
            self.emptied[at].record()

    def _load_ahead(self, number: int, step: RingStep, seen: tuple[int, ...]) -> None:
        """Fill the other place for the tile after this one: at the end, for the first one's next step."""
        following = (number + 1) % self.count
        if following == 0:
            slots = len(step.valid)
            seen = tuple(slot for slot in range(slots) if slot != step.slots.stop % slots)
        self._load(following, self.turn % len(self.places), seen)
        self.ahead = following, seen

    def _load(self, number: int, at: int, seen: tuple[int, ...]) -> None:
        loading = self.loading if self.on_host else torch.cuda.current_stream(self.executor.device)
        loading.wait_event(self.emptied[at])
        loading.wait_event(self.stored[number])
        with torch.cuda.stream(loading):
            copy_slots(self.rings[number], ring_of(self.places[at]), seen)
            self.loaded[at].record()

    def reset(self) -> None:
        """See `TileStates.reset`."""
        torch.cuda.synchronize(self.executor.device)
        self.turn, self.ahead = 0, None
        for tensors in (*self.encode, *self.memory, *self.rings):
            for tensor in tensors:
                tensor.zero_()
        for place in self.places:
            self.executor.reset_state(place)


def pinned_zeros(like: torch.Tensor) -> torch.Tensor:
    """Host memory for a tensor, that copies need not wait for."""
    return torch.zeros(like.shape, dtype=like.dtype, pin_memory=True)


def ring_of(state) -> Tensors:
    """All tensors of a state's ring; the first axis is its slots."""
    return [tensor for cache in state.ring for tensor in vars(cache).values()]


def copy_all(sources: Tensors, targets: Tensors) -> None:
    """Each onto its own, on the current stream."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)


def copy_slots(sources: Tensors, targets: Tensors, slots: tuple[int, ...]) -> None:
    """These slots of every tensor, on the current stream."""
    for source, target in zip(sources, targets, strict=True):
        for slot in slots:
            target[slot].copy_(source[slot], non_blocking=True)

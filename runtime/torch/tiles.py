"""Tiles that take turns in a few states of a GPU, whose addresses CUDA graphs know.

What a tile carries is parked while others run: on the GPU where all fit, else in pinned host memory. There
are two places for rings then: one is filled and another one emptied, on their own streams, while a tile runs.
Encoding's and decoding's states are small; their copies stand between the calls on these stages' streams.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate

import torch

from flashvsr_trt.config.signatures import DIT, ENCODE, StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.memory import BAND_PIXELS, Parking
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.tiles import TiledExecutor
from flashvsr_trt.runtime.torch.host_memory import free_host_memory
from flashvsr_trt.runtime.torch.whole_frames import TorchFrames

Tensors = list[torch.Tensor]


def in_tiles(
    executor, stream: StreamConfig, plan: TilePlan, parking: Parking = Parking.HOST, resident: int = 0
) -> TiledExecutor:
    """Whole frames on a `TorchExecutor` of the plan's tiles; on a GPU rings wait on the host, or there."""
    streams = executor.encoding, executor.decoding
    frames = TorchFrames(stream, plan, executor.device, executor.dtype, streams, executor._stage)
    count, new_states = len(plan.tiles), None
    if count > 1:
        # Tiles are there because memory is short: the largest maps come one by one, and in bands of rows.
        decoder = executor.decode_stage.decoder
        decoder.alone_pixels = min(decoder.alone_pixels, plan.tile[0] * plan.tile[1] // 4)
        decoder.band_pixels = BAND_PIXELS
    if executor.device.type == "cuda" and count > 1:
        new_states = partial(TilePlaces, executor, count, parking, resident)
    return TiledExecutor(executor, stream, plan, frames, new_states)


class TilePlaces:
    """Implements `runtime.tile_states.TileStates` for the torch executor on a GPU.

    Args:
        executor: a `TorchExecutor` of the tiles' stream.
        count: of tiles.
        parking: where what waits is.
        resident: bytes of rings that stay on the GPU all the same, since there is room; of each tile as many,
            so that what has to be brought is the same for all.

    Raises:
        DeviceError: the GPU or the host has no room for the states.
    """

    def __init__(self, executor, count: int, parking: Parking, resident: int = 0) -> None:
        self.executor, self.count, self.on_host = executor, count, parking is not Parking.GPU
        self.places = [executor.new_state() for _ in range(parking.places)]
        first, *others = self.places
        for place in others:
            place.encode, place.memory = [], []
            if place.graphs:
                # Steps of both places run one after another on one stream, so their graphs share memory.
                place.graphs.pool, place.graphs.stream = first.graphs.pool, first.graphs.stream
        rest = pinned_zeros if parking is Parking.HOST else torch.zeros_like
        ends = accumulate(x.nbytes for x in ring_of(first))
        stays = [not self.on_host or end * count <= resident for end in ends]
        rings = [torch.zeros_like if here else pinned_zeros for here in stays]
        needed = count * sum(x.nbytes for x, here in zip(ring_of(first), stays, strict=True) if not here)
        if rest is pinned_zeros:
            needed += count * sum(x.nbytes for x in (*first.encode, *first.memory))
        if needed > (free := free_host_memory()):
            raise DeviceError(
                f"{count} tiles that wait take {needed / 2**30:.1f} GiB of host memory, and "
                f"{free / 2**30:.1f} GiB are free; give more --vram, or smaller frames"
            )
        try:
            self.encode, self.memory = (
                [[rest(x) for x in part] for _ in range(count)] for part in (first.encode, first.memory)
            )
            self.rings = [
                [make(x) for make, x in zip(rings, ring_of(first), strict=True)] for _ in range(count)
            ]
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{executor.device} has too little memory for these tiles: {error}") from error
        self.loading, self.storing = (torch.cuda.Stream(executor.device) for _ in range(2))
        self.loaded = [torch.cuda.Event() for _ in self.places]
        self.done = [torch.cuda.Event() for _ in self.places]
        self.written: list[tuple[int, ...]] = [() for _ in self.places]
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
        running.wait_event(self.emptied[at])
        if self.on_host:
            self._load_ahead(number, step, seen)
        yield self.places[at]
        self.done[at].record(running)
        storing = self.storing if self.on_host else running
        storing.wait_event(self.done[at])
        with torch.cuda.stream(storing):
            copy_slots(ring_of(self.places[at]), self.rings[number], written)
            self.stored[number].record()
            self.emptied[at].record()
        self.written[at] = written

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
        # In one step all tiles write the same slots: those that are read are filled while these are stored.
        stored_yet = set(seen) & set(self.written[at])
        loading.wait_event(self.emptied[at] if stored_yet else self.done[at])
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
    # In its own layout, or copies would not be plain ones.
    return torch.zeros_like(like, device="cpu", pin_memory=True)


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

"""Where what the tiles of a GPU carry is while others run: there, or in pinned host memory.

Where all have room, tiles take turns in one state, whose addresses CUDA graphs know. Else nothing is
captured, and each layer's ring comes to the GPU before the layer runs and leaves it behind it, on streams of
their own: the GPU holds the rings of a few layers, whatever the size of a tile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial

import torch

from flashvsr_trt.config.signatures import DIT, ENCODE, StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.memory import RING_PLACES, Parking
from flashvsr_trt.process_memory import free_host_memory
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.tiles import TiledExecutor
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.pinned import PinnedMemory
from flashvsr_trt.runtime.torch.state import TorchState
from flashvsr_trt.runtime.torch.whole_frames import TorchFrames
from flashvsr_trt.stage_memory import BAND_PIXELS

Tensors = list[torch.Tensor]


def in_tiles(
    executor: TorchExecutor,
    stream: StreamConfig,
    plan: TilePlan,
    parking: Parking = Parking.RINGS_ON_HOST,
    resident: int = 0,
) -> TiledExecutor:
    """Whole frames on an executor of the plan's tiles.

    Args:
        parking: where tiles wait, of a GPU; on a CPU each has a state of its own.
        resident: bytes of rings that stay on the GPU where the others are on the host.
    """
    count, new_states = len(plan.tiles), None
    if count > 1:
        # Tiles are there because memory is short: the largest maps come one by one, and in bands of rows.
        # The executor's own: other executors may share the network's.
        decoder = executor.decode_stage.decoder = copy(executor.decode_stage.decoder)
        decoder.alone_pixels = min(decoder.alone_pixels, plan.tile[0] * plan.tile[1] // 4)
        decoder.band_pixels = BAND_PIXELS
    if executor.device.type == "cuda" and count > 1:
        if parking is Parking.GPU:
            new_states = partial(OnePlace, executor, count)
        else:
            executor.run_in_turn()
            new_states = partial(LayersFromHost, executor, count, parking, resident)
    return TiledExecutor(executor, stream, plan, TorchFrames(executor, stream, plan), new_states)


class OnePlace:
    """Implements `runtime.tiles.TileStates`: tiles take turns in one state, and wait on the GPU.

    Raises:
        DeviceError: the GPU has no room for the states.
    """

    def __init__(self, executor: TorchExecutor, count: int) -> None:
        self.executor, self.place = executor, executor.new_state()
        parts = self.place.encode, ring_of(self.place), self.place.memory
        try:
            self.encode, self.rings, self.memory = (
                [[torch.zeros_like(x) for x in part] for _ in range(count)] for part in parts
            )
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{executor.device} has too little memory for these tiles: {error}") from error

    @contextmanager
    def use(self, number: int, stage: str, step: RingStep | None = None) -> Iterator:
        """See `TileStates.use`. Copies stand between the calls on the stage's stream."""
        place = self.place
        if step:
            ring, kept = ring_of(place), self.rings[number]
            copy_slots(kept, ring, step.seen)
            yield place
            copy_slots(ring, kept, step.written)
            return
        stream, kept, own = self.executor.decoding, self.memory[number], place.memory
        if stage == ENCODE:
            stream, kept, own = self.executor.encoding, self.encode[number], place.encode
        with torch.cuda.stream(stream):
            copy_all(kept, own)
        yield place
        with torch.cuda.stream(stream):
            copy_all(own, kept)

    def reset(self) -> None:
        torch.cuda.synchronize(self.executor.device)
        for tensors in (*self.encode, *self.memory, *self.rings):
            for tensor in tensors:
                tensor.zero_()
        self.executor.reset_state(self.place)


class LayersFromHost:
    """Implements `runtime.tiles.TileStates`: a layer's ring is on the GPU while the layer runs.

    The executor's stages run in turn. All calls of a DiT step go tile by tile, in order.

    Args:
        count: of tiles.
        parking: whether what encoding and decoding carry waits on the host as well.
        resident: bytes of rings that stay on the GPU, since there is room: of each tile the same layers,
            spread evenly, so that others travel meanwhile.

    Raises:
        DeviceError: the GPU or the host has no room for the states.
    """

    def __init__(self, executor: TorchExecutor, count: int, parking: Parking, resident: int = 0) -> None:
        self.executor, self.count, self.device = executor, count, executor.device
        layers, on_host = executor.stream.preset.network.dit.layers, parking is Parking.HOST
        try:
            self.buffers = [executor.maker.layer() for _ in range(RING_PLACES)]
            self.tails = [executor.maker.tails() for _ in range(1 if on_host else count)]
            ring = sum(x.nbytes for x in vars(self.buffers[0]).values())
            staying = min(layers, resident // (count * ring))
            self.parked = [n for n in range(layers) if (n + 1) * staying // layers == n * staying // layers]
            needed = count * len(self.parked) * ring
            if on_host:
                needed += count * sum(x.nbytes for part in self.tails[0] for x in part)
            if needed > (free := free_host_memory()):
                raise DeviceError(
                    f"{count} tiles that wait take {needed / 2**30:.1f} GiB of host memory, and "
                    f"{free / 2**30:.1f} GiB are free; give more --vram, --kv-cache fp8, or smaller frames"
                )
            self.pinned = PinnedMemory()
            self.rings = [[self._ring(n) for n in range(layers)] for _ in range(count)]
            self.place = executor.maker.place()
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{self.device} has too little memory for these tiles: {error}") from error
        self.waiting = [
            tuple([self.pinned.zeros_like(x) for x in part] for part in self.tails[0])
            for _ in range(count if on_host else 0)
        ]
        self.loading, self.storing = (torch.cuda.Stream(self.device) for _ in range(2))
        self.loaded, self.done, self.emptied = ([torch.cuda.Event() for _ in self.buffers] for _ in range(3))
        self.fetched = 0
        torch.cuda.synchronize(self.device)

    def _ring(self, layer: int):
        """A layer's ring of a tile, where it waits."""
        if layer not in self.parked:
            return self.executor.maker.layer()
        parts = vars(self.buffers[0])
        return type(self.buffers[0])(**{name: self.pinned.zeros_like(x) for name, x in parts.items()})

    @contextmanager
    def use(self, number: int, stage: str, step: RingStep | None = None) -> Iterator:
        encode, memory = self.tails[0 if self.waiting else number]
        if stage == DIT:
            assert step is not None
            yield TorchState(encode, self._layers(number, step), memory, place=self.place)
            return
        here = encode if stage == ENCODE else memory
        kept = self.waiting[number][0 if stage == ENCODE else 1] if self.waiting else here
        if kept is not here:
            copy_all(kept, here)
        yield TorchState(encode, (), memory)
        if kept is not here:
            copy_all(here, kept)

    def _layers(self, number: int, step: RingStep) -> Iterator:
        """The rings of a tile's layers, one by one: what one sees is brought, what it wrote is taken away."""
        running = torch.cuda.current_stream(self.device)
        if number == 0:
            # What the step before wrote is on the host by then.
            self.loading.wait_stream(self.storing)
            self.fetched = 0
        for layer, ring in enumerate(self.rings[number]):
            if layer not in self.parked:
                yield ring
                continue
            turn = number * len(self.parked) + self.parked.index(layer)
            self._fetch_until(turn + len(self.buffers), step)
            at = turn % len(self.buffers)
            running.wait_event(self.loaded[at])
            yield self.buffers[at]
            self.done[at].record(running)
            self.storing.wait_event(self.done[at])
            with torch.cuda.stream(self.storing):
                copy_slots(tensors_of(self.buffers[at]), tensors_of(ring), step.written)
                self.emptied[at].record(self.storing)

    def _fetch_until(self, turn: int, step: RingStep) -> None:
        """Start to bring the layers before that turn of this step, each to the buffer that is its turn's."""
        while self.fetched < min(turn, self.count * len(self.parked)):
            number, place = divmod(self.fetched, len(self.parked))
            at = self.fetched % len(self.buffers)
            if self.fetched >= len(self.buffers):
                self.loading.wait_event(self.emptied[at])
            ring = self.rings[number][self.parked[place]]
            with torch.cuda.stream(self.loading):
                copy_slots(tensors_of(ring), tensors_of(self.buffers[at]), step.seen)
                self.loaded[at].record(self.loading)
            self.fetched += 1

    def reset(self) -> None:
        torch.cuda.synchronize(self.device)
        rings = (tensors_of(ring) for tile in self.rings for ring in tile)
        for tensors in (*rings, *(part for tails in (*self.tails, *self.waiting) for part in tails)):
            for tensor in tensors:
                tensor.zero_()


def tensors_of(cache) -> Tensors:
    """All tensors of a layer's ring; the first axis is its slots."""
    return list(vars(cache).values())


def ring_of(state) -> Tensors:
    """All tensors of a state's ring."""
    return [tensor for cache in state.ring for tensor in tensors_of(cache)]


def copy_all(sources: Tensors, targets: Tensors) -> None:
    """Each onto its own, on the current stream."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)


def copy_slots(sources: Tensors, targets: Tensors, slots: tuple[int, ...]) -> None:
    """These slots of every tensor, on the current stream."""
    for source, target in zip(sources, targets, strict=True):
        for slot in slots:
            target[slot].copy_(source[slot], non_blocking=True)

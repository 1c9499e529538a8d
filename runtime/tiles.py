"""An executor of whole frames on an executor of tiles: each call goes tile by tile, and frames are blended.

Every tile has a state of its own, and all run in one executor, with one set of graphs or engines. A session
sees none of this: counts, times and latency are those of frames without tiles.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.config.signatures import DECODE, DIT, ENCODE, StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.runtime.executor import DeviceTensor, Executor, GraphExecutor, PendingFrames, State
from flashvsr_trt.runtime.frames import Frames, NumpyArrays
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.whole_frames import HostFrames, WholeFrames


class TileStates(Protocol):
    """The states of a clip's tiles: where each is while others run."""

    def use(self, number: int, stage: str, step: RingStep | None = None) -> AbstractContextManager[State]:
        """Tile `number`'s state, ready for one call of a stage; `step` is of a DiT step."""
        ...

    def reset(self) -> None:
        """Zero all of them, for the next clip."""
        ...


class OwnStates:
    """Implements `TileStates`: each tile's state stays where the executor made it."""

    def __init__(self, executor: Executor, count: int) -> None:
        self.executor, self.states = executor, [executor.new_state() for _ in range(count)]

    @contextmanager
    def use(self, number: int, stage: str, step: RingStep | None = None) -> Iterator[State]:
        yield self.states[number]

    def reset(self) -> None:
        for state in self.states:
            self.executor.reset_state(state)


@dataclass
class TiledState:
    """What is carried of a whole frame: its tiles' states, and `WholeFrames.kept` of frames not decoded."""

    tiles: TileStates
    tail: Any = field(default=None)


class TiledExecutor(Executor):
    """Implements `runtime.executor.Executor` for whole frames.

    Args:
        executor: of one tile's stream.
        stream: of the whole frames.
        plan: has tiles of the executor's size.
        frames: what cuts and blends where the executor is; in host memory if it is not given.
        new_states: makes the states of a clip's tiles; each has one of its own if it is not given.
    """

    def __init__(
        self,
        executor: GraphExecutor,
        stream: StreamConfig,
        plan: TilePlan,
        frames: WholeFrames | None = None,
        new_states: Callable[[], TileStates] | None = None,
    ) -> None:
        self.executor, self.stream, self.plan = executor, stream, plan
        self.overlaps, self.profile = executor.overlaps, executor.profile
        self.frames = frames or HostFrames(stream, plan)
        self.arrays = executor.arrays if frames else NumpyArrays(executor.arrays.is_device)
        self.new_states = new_states or partial(OwnStates, executor, len(plan.tiles))

    def new_state(self) -> TiledState:
        """See `Executor.new_state`. Raises DeviceError where the tiles' states do not fit."""
        return TiledState(self.new_states())

    def reset_state(self, state: TiledState) -> None:
        state.tiles.reset()
        state.tail = None

    def encode(self, frames: Frames, first: bool, state: TiledState) -> tuple[Any, list[DeviceTensor]]:
        """See `Executor.encode`. The condition is `WholeFrames.kept`, and each tile's where that is kept."""
        whole = self.frames.upscale(frames)
        conditions, tokens = [], []
        for number, tile in enumerate(self.plan.tiles):
            rows, columns = tile.pixels
            with state.tiles.use(number, ENCODE) as own:
                condition, made = self.executor.encode(whole[:, rows, columns], first, own)
            conditions.append(condition if self.frames.keeps_conditions else None)
            tokens.append(made)
        return (self._kept(self.frames.kept(frames, whole), state), conditions), tokens

    def _kept(self, frames: Frames, state: TiledState) -> Frames:
        """Those of the unit that is decoded next: with look-ahead, not those just encoded."""
        if not self.stream.schedule.lookahead:
            return frames
        if state.tail is not None:
            frames = self.arrays.stack([*state.tail, *frames])
        state.tail = frames[-self.stream.schedule.lookahead :]
        return frames[:UNIT_FRAMES]

    def dit(
        self,
        noise: np.ndarray,
        tokens: list[list[DeviceTensor]],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: TiledState,
    ) -> list[list[DeviceTensor]]:
        """See `Executor.dit`. A tile's noise is cut from the frame's, so tiles agree where they overlap."""
        noise = self._noise_of_canvas(noise)
        latents = []
        for number, tile in enumerate(self.plan.tiles):
            rows, columns = tile.latent
            with state.tiles.use(number, DIT, step) as own:
                units = [unit[number] for unit in tokens]
                latents.append(self.executor.dit(noise[:, :, rows, columns], units, rope, step, own))
        return [list(unit) for unit in zip(*latents, strict=True)]

    def _noise_of_canvas(self, noise: np.ndarray) -> np.ndarray:
        """Noise of a frame that is smaller than a tile is repeated beyond it, where nothing is shown."""
        beyond = [
            max(0, tile.stop - size)
            for tile, size in zip(self.plan.tiles[-1].latent, noise.shape[2:], strict=True)
        ]
        return np.pad(noise, [(0, 0), (0, 0), *((0, more) for more in beyond)], mode="wrap")

    def start_decode(
        self,
        latent: list[DeviceTensor],
        condition: tuple[Any, list[DeviceTensor]],
        state: TiledState,
        on_device: bool = False,
    ) -> PendingFrames:
        """See `Executor.start_decode`. A tile that is alone is finished as frames without tiles are."""
        kept, conditions = condition
        reference = self.frames.reference(kept)
        if len(latent) == 1:
            with state.tiles.use(0, DECODE) as own:
                alone = self._condition(0, reference, conditions)
                return self.executor.start_decode(latent[0], alone, own, on_device)
        blended = self.frames.blank()
        for number, (tile, weight) in enumerate(zip(self.plan.tiles, self.plan.weights, strict=True)):
            own_condition = self._condition(number, reference, conditions)
            with state.tiles.use(number, DECODE) as own:
                decoded = self.executor.decode_tile(latent[number], own_condition, own)
            self.frames.add(blended, tile, weight, decoded)
        return self.frames.finish(blended, reference, on_device)

    def _condition(self, number: int, reference: Any, conditions: list[DeviceTensor]) -> DeviceTensor:
        rows, columns = self.plan.tiles[number].pixels
        if self.frames.keeps_conditions:
            return conditions[number]
        return self.frames.condition(reference[:, rows, columns])

    def stage_seconds(self) -> dict[str, float]:
        return self.executor.stage_seconds()

    def describe(self) -> dict[str, Any]:
        height, width = self.plan.tile
        return self.executor.describe() | {"tile": [width, height], "tiles": len(self.plan.tiles)}

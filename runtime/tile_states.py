"""Where the states of a frame's tiles are while others run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from flashvsr_trt.runtime.executor import Executor, State
from flashvsr_trt.runtime.ring import RingStep


class TileStates(Protocol):
    """The states of a clip's tiles."""

    def use(self, number: int, stage: str, step: RingStep | None = None) -> AbstractContextManager[State]:
        """Tile `number`'s state, ready for one call of a stage; `step` is of a DiT step."""
        ...

    def reset(self) -> None:
        """Zero all of them, for the next clip."""
        ...


class OwnStates:
    """Each tile's state stays where the executor made it."""

    def __init__(self, executor: Executor, count: int) -> None:
        self.executor, self.states = executor, [executor.new_state() for _ in range(count)]

    @contextmanager
    def use(self, number: int, stage: str, step: RingStep | None = None) -> Iterator[State]:
        """See `TileStates.use`."""
        yield self.states[number]

    def reset(self) -> None:
        """See `TileStates.reset`."""
        for state in self.states:
            self.executor.reset_state(state)

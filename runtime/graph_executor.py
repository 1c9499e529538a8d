"""The one outline of an executor: a session's three calls as runs of the stages' graphs.

A backend allocates what is carried, runs a graph with every tensor bound by the roles of its signature, and
downloads frames. Nothing else differs between backends.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from flashvsr_trt.config.signatures import DECODE, DECODE_TILE, DIT, DIT_FIRST, ENCODE
from flashvsr_trt.runtime.executor import DeviceTensor, Executor, PendingFrames, ReadyFrames, State
from flashvsr_trt.runtime.ring import RingStep

HostArrays = Mapping[str, np.ndarray]
DeviceTensors = Mapping[str, Any]
"""By the names of a signature. A DiT step's `tokens` and `latent` are lists, with one tensor a unit."""


class GraphExecutor(Executor):
    """An executor whose backend derives from it."""

    @abstractmethod
    def run_graph(
        self, graph: str, arrays: HostArrays, tensors: DeviceTensors, state: State, step: RingStep | None
    ) -> DeviceTensors:
        """Run one graph. What its outputs become is carried in `state` when this returns.

        Args:
            arrays: the inputs that the host gives.
            tensors: those that other stages made, as this method gave them.
            step: of a DiT graph: the slots of the ring that new keys and values go into.

        Returns:
            The graph's results, on the device; they may still be being made.
        """

    def download(self, frames: DeviceTensor) -> PendingFrames:
        """Decoded frames on their way to the host. As they come where they are on the host already."""
        return ReadyFrames(frames)

    def encode(self, frames: np.ndarray, first: bool, state: State) -> tuple[DeviceTensor, DeviceTensor]:
        made = self.run_graph(ENCODE, {"frames": frames, "first": np.array(first)}, {}, state, None)
        return made["condition"], made["tokens"]

    def dit(
        self,
        noise: np.ndarray,
        tokens: list[DeviceTensor],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: State,
    ) -> list[DeviceTensor]:
        """The new K/V is written into the step's slots of the ring."""
        graph = DIT if len(tokens) == 1 else DIT_FIRST
        arrays = {"noise": noise, "time_cos": rope[0], "time_sin": rope[1], "slot_valid": step.valid}
        return self.run_graph(graph, arrays, {"tokens": tokens}, state, step)["latent"]

    def start_decode(self, latent: DeviceTensor, condition: DeviceTensor, state: State) -> PendingFrames:
        made = self.run_graph(DECODE, {}, {"latent": latent, "condition": condition}, state, None)
        return self.download(made["frames"])

    def decode_tile(self, latent: DeviceTensor, condition: DeviceTensor, state: State) -> DeviceTensor:
        """One unit of a tile -> its frames before colour fix and bytes, as `WholeFrames.add` takes them."""
        made = self.run_graph(DECODE_TILE, {}, {"latent": latent, "condition": condition}, state, None)
        return self.download(made["frames"])

    def decode(self, latent: DeviceTensor, condition: DeviceTensor, state: State) -> np.ndarray:
        """As `start_decode`, and the frames once they are there."""
        return self.start_decode(latent, condition, state).read()

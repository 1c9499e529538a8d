"""What a session asks of a backend. Tensors stay on the backend's device between the calls."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flashvsr_trt.config.signatures import DECODE, DECODE_TILE, DIT, DIT_FIRST, ENCODE, StreamConfig
from flashvsr_trt.runtime.frames import FrameArrays, Frames, NumpyArrays
from flashvsr_trt.runtime.ring import RingStep

if TYPE_CHECKING:
    from flashvsr_trt.runtime.tensorrt.run_profile import RunProfile

State = Any
"""The stages' carried tensors, as `signatures` declares them, in the executor's own type."""

DeviceTensor = Any
"""A tensor on the executor's device; a session only hands it from one stage to the next."""


Rope = tuple[np.ndarray, np.ndarray]
"""cos and sin of latent frames' positions in time, each float32 [latent_frames, pairs]."""


PendingFrames = Callable[[], Frames]
"""Gives one unit's frames, uint8 [8, tH, tW, 3], once they are there. To be called once."""


class Executor(ABC):
    """Runs the three stages. One executor serves many sessions: all that is carried is in the state.

    `overlaps`: whether the device decodes a unit while it works on the next one. `profile`: times by layer,
    of a backend that was asked to record them. `arrays`: the kinds of frames that it takes.
    """

    stream: StreamConfig
    overlaps = False
    profile: "RunProfile | None" = None
    arrays: FrameArrays = NumpyArrays()

    @abstractmethod
    def new_state(self) -> State:
        """Zeroed state of a fresh clip."""

    @abstractmethod
    def reset_state(self, state: State) -> None:
        """Zero a state for the next clip, in its place: CUDA graphs that were captured with it stay valid."""

    @abstractmethod
    def encode(self, frames: Frames, first: bool, state: State) -> tuple[DeviceTensor, DeviceTensor]:
        """uint8 [8, H, W, 3] -> condition and tokens of one unit. `first` starts from its first frame."""

    @abstractmethod
    def dit(
        self, noise: np.ndarray, tokens: list[DeviceTensor], rope: Rope, step: RingStep, state: State
    ) -> list[DeviceTensor]:
        """Noise float32 [2*units, 16, h, w] and each unit's tokens -> each unit's latent."""

    @abstractmethod
    def start_decode(
        self, latent: DeviceTensor, condition: DeviceTensor, state: State, on_device: bool = False
    ) -> PendingFrames:
        """One unit -> its frames, uint8 [8, tH, tW, 3], which an executor that overlaps does not wait for.

        They come to the host, or stay `on_device` where `arrays` are.
        """

    @abstractmethod
    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage since the executor was made, on the device's own clock."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Backend, device, dtype and versions, for reports."""


HostArrays = Mapping[str, np.ndarray]
DeviceTensors = Mapping[str, Any]
"""By the names of a signature. A DiT step's `tokens` and `latent` are lists, with one tensor a unit."""


class GraphExecutor(Executor):
    """The one outline of a backend: a session's three calls as runs of the stages' graphs.

    A backend allocates what is carried, runs a graph with every tensor bound by the roles of its signature,
    and downloads frames. Nothing else differs between backends.
    """

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
        return lambda: frames

    def encode(self, frames: Frames, first: bool, state: State) -> tuple[DeviceTensor, DeviceTensor]:
        made = self.run_graph(ENCODE, {"frames": frames, "first": np.array(first)}, {}, state, None)
        return made["condition"], made["tokens"]

    def dit(
        self, noise: np.ndarray, tokens: list[DeviceTensor], rope: Rope, step: RingStep, state: State
    ) -> list[DeviceTensor]:
        """The new K/V is written into the step's slots of the ring."""
        graph = DIT if len(tokens) == 1 else DIT_FIRST
        arrays = {"noise": noise, "time_cos": rope[0], "time_sin": rope[1], "slot_valid": step.valid}
        return self.run_graph(graph, arrays, {"tokens": tokens}, state, step)["latent"]

    def start_decode(
        self, latent: DeviceTensor, condition: DeviceTensor, state: State, on_device: bool = False
    ) -> PendingFrames:
        made = self.run_graph(DECODE, {}, {"latent": latent, "condition": condition}, state, None)
        return self.give(made["frames"], on_device)

    def give(self, frames: DeviceTensor, on_device: bool) -> PendingFrames:
        """Decoded frames as `start_decode` gives them; a backend without arrays of its own downloads them."""
        return self.download(frames)

    def decode_tile(self, latent: DeviceTensor, condition: DeviceTensor, state: State) -> DeviceTensor:
        """One unit of a tile -> its frames before colour fix and bytes, as `WholeFrames.add` takes them."""
        made = self.run_graph(DECODE_TILE, {}, {"latent": latent, "condition": condition}, state, None)
        return self.download(made["frames"])

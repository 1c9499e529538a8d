"""What a session asks of a backend. Tensors stay on the backend's device between the calls."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.runtime.ring import RingStep

if TYPE_CHECKING:
    from flashvsr_trt.runtime.tensorrt.run_profile import RunProfile

State = Any
"""The stages' carried tensors, as `signatures` declares them, in the executor's own type."""

DeviceTensor = Any
"""A tensor on the executor's device; a session only hands it from one stage to the next."""


class PendingFrames(Protocol):
    """One unit's frames, perhaps still being made."""

    def read(self) -> np.ndarray:
        """uint8 [8, tH, tW, 3], once they are there. To be called once."""
        ...


@dataclass(frozen=True)
class ReadyFrames:
    """Frames that are there already."""

    frames: np.ndarray

    def read(self) -> np.ndarray:
        return self.frames


class Executor(ABC):
    """Runs the three stages. One executor serves many sessions: all that is carried is in the state.

    `overlaps`: whether the device decodes a unit while it works on the next one. `profile`: times by layer,
    of a backend that was asked to record them.
    """

    stream: StreamConfig
    overlaps = False
    profile: "RunProfile | None" = None

    @abstractmethod
    def new_state(self) -> State:
        """Zeroed state of a fresh clip."""

    @abstractmethod
    def reset_state(self, state: State) -> None:
        """Zero a state for the next clip, in its place: CUDA graphs that were captured with it stay valid."""

    @abstractmethod
    def encode(self, frames: np.ndarray, first: bool, state: State) -> tuple[DeviceTensor, DeviceTensor]:
        """uint8 [8, H, W, 3] -> condition and tokens of one unit. `first` starts from its first frame."""

    @abstractmethod
    def dit(
        self,
        noise: np.ndarray,
        tokens: list[DeviceTensor],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: State,
    ) -> list[DeviceTensor]:
        """Noise float32 [2*units, 16, h, w] and each unit's tokens -> each unit's latent."""

    @abstractmethod
    def start_decode(self, latent: DeviceTensor, condition: DeviceTensor, state: State) -> PendingFrames:
        """One unit -> its frames, uint8 [8, tH, tW, 3], which an executor that overlaps does not wait for."""

    @abstractmethod
    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage since the executor was made, on the device's own clock."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Backend, device, dtype and versions, for reports."""

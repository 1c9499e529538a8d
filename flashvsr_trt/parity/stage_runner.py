"""Running graphs one at a time on host arrays, by name: the seam that parity compares backends at."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import DECODE, DIT, DIT_FIRST, ENCODE, next_name
from flashvsr_trt.runtime.ring import RingStep

Arrays = dict[str, np.ndarray]

BLOCKS = "blocks."
"""Prefix of the kept-block masks among a graph's outputs."""


class StageRunner(Protocol):
    """One backend's graphs of one bundle."""

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All inputs and state of a graph's signature -> all its outputs and next state.

        A sparse DiT also gives `blocks.N`, layer N's kept blocks: bool [heads, units*W, (slots+units)*W].
        """


class StageExecutor:
    """Drives a StageRunner through a session. Implements `runtime.executor.Executor` on numpy arrays."""

    def __init__(self, runner: StageRunner, bundle: Bundle) -> None:
        self.runner, self.bundle, self.stream = runner, bundle, bundle.stream

    def new_state(self) -> Arrays:
        """Zeros for all that is carried, the ring included."""
        signatures = self.bundle.signatures
        ring = [spec for spec in signatures[DIT].inputs if spec.name.startswith("ring_")]
        specs = (*signatures[ENCODE].state, *signatures[DECODE].state, *ring)
        return {spec.name: np.zeros(spec.shape, self.bundle.dtype_of(spec)) for spec in specs}

    def reset_state(self, state: Arrays) -> None:
        """See `Executor.reset_state`."""
        for tensor in state.values():
            tensor[...] = 0

    def encode(self, frames: np.ndarray, first: bool, state: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """See `Executor.encode`."""
        made = self._run(ENCODE, {"frames": frames, "first": np.array(first)}, state)
        return made["condition"], made["tokens"]

    def dit(
        self,
        noise: np.ndarray,
        tokens: list[np.ndarray],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: Arrays,
    ) -> list[np.ndarray]:
        """See `Executor.dit`."""
        ring = {name: tensor for name, tensor in state.items() if name.startswith("ring_")}
        cos, sin = rope
        inputs = {"noise": noise, "tokens": np.concatenate(tokens), "time_cos": cos, "time_sin": sin}
        graph = DIT if len(tokens) == 1 else DIT_FIRST
        made = self.runner.run(graph, inputs | {"slot_valid": step.valid} | ring)
        for name, tensor in ring.items():
            tensor[step.slots] = made[name.replace("ring_", "new_", 1)]
        return list(np.split(made["latent"], len(noise) // UNIT_LATENT_FRAMES))

    def decode(self, latent: np.ndarray, condition: np.ndarray, state: Arrays) -> np.ndarray:
        """See `Executor.decode`."""
        return self._run(DECODE, {"latent": latent, "condition": condition}, state)["frames"]

    def stage_seconds(self) -> dict[str, float]:
        """Nothing is timed here."""
        return {}

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`."""
        return {"backend": "stages", "bundle": str(self.bundle.folder)}

    def _run(self, graph: str, inputs: Arrays, state: Arrays) -> Arrays:
        names = [spec.name for spec in self.bundle.signatures[graph].state]
        made = self.runner.run(graph, inputs | {name: state[name] for name in names})
        state.update({name: made[next_name(name)] for name in names})
        return made

"""Running graphs one at a time on host arrays, by name: the seam that parity compares backends at."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import Role, carried_tensors
from flashvsr_trt.runtime.executor import DeviceTensors, GraphExecutor, HostArrays
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
        ...


class StageExecutor(GraphExecutor):
    """Drives a StageRunner through a session."""

    def __init__(self, runner: StageRunner, bundle: Bundle) -> None:
        self.runner, self.bundle, self.stream = runner, bundle, bundle.stream
        self.signatures = bundle.signatures

    def new_state(self) -> Arrays:
        """Zeros for all that is carried, the ring included."""
        carried = carried_tensors(self.signatures)
        return {spec.name: np.zeros(spec.shape, self.bundle.dtype_of(spec)) for spec in carried}

    def reset_state(self, state: Arrays) -> None:
        for tensor in state.values():
            tensor[...] = 0

    def run_graph(
        self, graph: str, arrays: HostArrays, tensors: DeviceTensors, state: Arrays, step: RingStep | None
    ) -> DeviceTensors:
        signature = self.signatures[graph]
        given = {
            name: np.concatenate(value) if isinstance(value, list) else value
            for name, value in tensors.items()
        }
        carried = {spec.name: state[spec.name] for spec in signature.carried}
        made = self.runner.run(graph, {**arrays, **given, **carried})
        for spec in signature.graph_outputs:
            if step and spec.becomes and spec.becomes.role is Role.RING:
                state[spec.becomes.name][step.slots] = made[spec.name]
            elif spec.becomes:
                state[spec.becomes.name] = made[spec.name]
        if not step:
            return made
        return made | {"latent": np.split(made["latent"], len(made["latent"]) // UNIT_LATENT_FRAMES)}

    def stage_seconds(self) -> dict[str, float]:
        """Nothing is timed here."""
        return {}

    def describe(self) -> dict[str, Any]:
        return {"backend": "stages", "bundle": str(self.bundle.folder)}

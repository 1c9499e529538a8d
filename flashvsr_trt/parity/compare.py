"""Comparing two backends: each graph on the same inputs, tensor by tensor, and whole clips end to end.

In the comparison by graph both get the inputs and state of the reference, so that one graph's error does not
become the next one's; the end-to-end comparison lets errors add up as they do in use.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.errors import UsageError
from flashvsr_trt.parity.stage_runner import Arrays, StageExecutor, StageRunner
from flashvsr_trt.parity.tensor_error import TensorError, Thresholds
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.session import Session

END_TO_END = "end to end"


@dataclass
class ParityReport:
    """Every compared tensor, in the order in which the graphs first ran."""

    precision: str
    thresholds: Thresholds
    reference: dict[str, Any]
    candidate: dict[str, Any]
    tensors: list[TensorError] = field(default_factory=list)

    @property
    def exceeded(self) -> list[TensorError]:
        return [tensor for tensor in self.tensors if tensor.exceeds(self.thresholds)]

    @property
    def first_diverging(self) -> str | None:
        """The first graph with such a tensor; END_TO_END if only the whole clip diverges."""
        return self.exceeded[0].graph if self.exceeded else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: null is the PSNR of equal frames, and an error without bound."""
        rows = [
            {name: None if value in (inf, -inf) else value for name, value in asdict(tensor).items()}
            | {"exceeds": tensor.exceeds(self.thresholds)}
            for tensor in self.tensors
        ]
        return asdict(self) | {"tensors": rows, "first_diverging": self.first_diverging}


class ComparingRunner:
    """Runs both backends on the same inputs and hands on what the reference gives."""

    def __init__(self, reference: StageRunner, candidate: StageRunner) -> None:
        self.reference, self.candidate = reference, candidate
        self.errors: dict[tuple[str, str], TensorError] = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        expected, actual = self.reference.run(graph, inputs), self.candidate.run(graph, inputs)
        for name, tensor in expected.items():
            error = self.errors.setdefault((graph, name), TensorError(graph, name))
            error.add(tensor, actual[name])
        return expected


def compare_graphs(
    bundle: Bundle, reference: StageRunner, candidate: StageRunner, frames: np.ndarray
) -> list[TensorError]:
    """Every output and next state of every graph, over the calls that the frames uint8 [n, H, W, 3] take."""
    comparing = ComparingRunner(reference, candidate)
    run_clip(StageExecutor(comparing, bundle), frames)
    return list(comparing.errors.values())


def run_clip(executor: Executor, frames: np.ndarray) -> np.ndarray:
    """One clip through a session with the default noise."""
    session = Session(executor)
    return np.concatenate([session.push(frames), session.flush()])


def synthetic_frames(bundle: Bundle, count: int) -> np.ndarray:
    """A moving picture with edges, gradients and noise, uint8 [count, H, W, 3], the same every time.

    Raises:
        UsageError: none are asked for.
    """
    if not count:
        raise UsageError(f"--frames {count} compares nothing; give at least 1")
    geometry = bundle.stream.geometry
    row, column = np.mgrid[: geometry.height, : geometry.width]
    noise = np.random.default_rng(0)
    frames = []
    for time in range(count):
        wave = 96 * np.sin((row + 2 * time) / 7) + 96 * np.cos((column - 3 * time) / 11)
        bars = np.where((column + 5 * time) // 16 % 2, 60, -60)
        picture = np.stack([128 + wave, 128 + bars, 128 + wave / 2 - bars / 2], axis=-1)
        frames.append(picture + noise.normal(0, 6, picture.shape))
    return np.stack(frames).clip(0, 255).astype(np.uint8)

"""Comparing two backends: each graph on the same inputs, tensor by tensor, and whole clips end to end.

In the comparison by graph both get the inputs and state of the reference, so that one graph's error does not
become the next one's; the end-to-end comparison lets errors add up as they do in use.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.stage_runner import Arrays, StageExecutor, StageRunner

BLOCKS = "blocks."
"""Prefix of the kept-block masks among a graph's outputs."""

END_TO_END = "end to end"

RELATIVE_FLOOR = 1e-3
"""Relative errors are taken over values of at least this part of the largest one."""


@dataclass(frozen=True)
class Thresholds:
    """What two backends of one precision may differ by.

    `error_of_largest`: largest error of a tensor over its largest value. `cosine`: least cosine similarity.
    `frames_psnr`: least PSNR of 8-bit frames in dB. `mask_agreement`: least part of equal mask entries.
    """

    error_of_largest: float
    cosine: float
    frames_psnr: float
    mask_agreement: float


@dataclass
class TensorError:
    """How far one tensor of a graph was from the reference, over all calls."""

    graph: str
    tensor: str
    calls: int = 0
    max_absolute: float = 0.0
    mean_absolute: float = 0.0
    max_relative: float = 0.0
    mean_relative: float = 0.0
    cosine: float = 1.0
    error_of_largest: float = 0.0
    psnr: float | None = None
    mask_agreement: float | None = None

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Take in one call. The means are over calls, all else is the worst call's."""
        self.calls += 1
        if reference.shape != candidate.shape or not np.isfinite(candidate.astype(np.float64)).all():
            self._add_worst()
            return
        if reference.dtype == bool:
            agreement = float((reference == candidate).mean())
            self.mask_agreement = min(1.0 if self.mask_agreement is None else self.mask_agreement, agreement)
        if reference.dtype == np.uint8:
            value = psnr(reference, candidate)
            self.psnr = value if self.psnr is None else min(self.psnr, value)
        wide, other = (x.astype(np.float64).ravel() for x in (reference, candidate))
        error, largest = np.abs(wide - other), np.abs(wide).max(initial=0.0)
        counted = np.abs(wide) > RELATIVE_FLOOR * largest
        relative = error[counted] / np.abs(wide[counted]) if counted.any() else np.zeros(1)
        self.max_absolute = max(self.max_absolute, float(error.max()))
        self.max_relative = max(self.max_relative, float(relative.max()))
        self.mean_absolute += (float(error.mean()) - self.mean_absolute) / self.calls
        self.mean_relative += (float(relative.mean()) - self.mean_relative) / self.calls
        self.cosine = min(self.cosine, cosine(wide, other))
        scale = largest if largest else 1.0
        self.error_of_largest = max(self.error_of_largest, float(error.max()) / scale)

    def exceeds(self, limits: Thresholds) -> bool:
        """Whether the tensor is further from the reference than allowed."""
        if self.mask_agreement is not None:
            return self.mask_agreement < limits.mask_agreement
        if self.psnr is not None:
            return self.psnr < limits.frames_psnr
        return not (self.error_of_largest <= limits.error_of_largest and self.cosine >= limits.cosine)

    def _add_worst(self) -> None:
        """A tensor of another shape, or with values that are not numbers, agrees in nothing."""
        self.max_absolute = self.mean_absolute = self.error_of_largest = float("inf")
        self.max_relative = self.mean_relative = float("inf")
        self.cosine = -1.0
        self.psnr = None if self.psnr is None else 0.0
        self.mask_agreement = None if self.mask_agreement is None else 0.0


def psnr(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Of 8-bit samples, in dB; infinite where all are equal."""
    square = np.mean((reference.astype(np.float64) - candidate.astype(np.float64)) ** 2)
    return float("inf") if square == 0 else float(10 * np.log10(255**2 / square))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine similarity of two vectors; 1 for two zeros, 0 for one."""
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(one @ other / (lengths[0] * lengths[1]))


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
        """Tensors beyond the thresholds."""
        return [tensor for tensor in self.tensors if tensor.exceeds(self.thresholds)]

    @property
    def first_diverging(self) -> str | None:
        """The first graph with such a tensor; END_TO_END if only the whole clip diverges."""
        return self.exceeded[0].graph if self.exceeded else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [asdict(tensor) | {"exceeds": tensor.exceeds(self.thresholds)} for tensor in self.tensors]
        return asdict(self) | {"tensors": rows, "first_diverging": self.first_diverging}


class ComparingRunner:
    """Runs both backends on the same inputs and hands on what the reference gives."""

    def __init__(self, reference: StageRunner, candidate: StageRunner) -> None:
        self.reference, self.candidate = reference, candidate
        self.errors: dict[tuple[str, str], TensorError] = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """See `StageRunner.run`."""
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


def compare_clips(reference: Executor, candidate: Executor, frames: np.ndarray) -> TensorError:
    """The frames that come out of two backends, each running on its own."""
    error = TensorError(END_TO_END, "frames")
    error.add(run_clip(reference, frames), run_clip(candidate, frames))
    return error


def run_clip(executor: Executor, frames: np.ndarray) -> np.ndarray:
    """One clip through a session with the default noise."""
    session = Session(executor)
    return np.concatenate([session.push(frames), session.flush()])


def thresholds_for(precision: str) -> Thresholds:
    """From `parity_thresholds.json`."""
    table = json.loads(files("flashvsr_trt.runtime").joinpath("parity_thresholds.json").read_text())
    return Thresholds(**table[precision])


def synthetic_frames(bundle: Bundle, count: int) -> np.ndarray:
    """A moving picture with edges, gradients and noise, uint8 [count, H, W, 3], the same every time."""
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

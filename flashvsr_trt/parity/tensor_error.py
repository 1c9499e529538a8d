"""How far one tensor is from another, and how far it may be."""

import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from flashvsr_trt.quality import metrics

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
    return metrics.psnr(metrics.mean_squared_error(reference, candidate))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine similarity of two vectors; 1 for two zeros, 0 for one."""
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    return float(one @ other / (lengths[0] * lengths[1]))


def thresholds_for(precision: str) -> Thresholds:
    """From `thresholds.json`."""
    table = json.loads(files("flashvsr_trt.parity").joinpath("thresholds.json").read_text())
    return Thresholds(**table[precision])

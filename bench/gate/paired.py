"""What paired samples say: the ratio of head to base, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Head over base: the median of all blocks, and the interval that holds it with CONFIDENCE."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """How unsure it is."""
        return (self.high - self.low) / 2


def block_ratio(base: tuple[float, float], head: tuple[float, float]) -> float:
    """Of a block of four samples A B B A: what drifts steadily hits both alike."""
    return sum(head) / sum(base)


def bootstrap(ratios: Sequence[float], seed: int = 0) -> Ratio:
    """The median of ratios, and its percentile interval over RESAMPLES seeded resamples."""
    logs = np.log(np.asarray(ratios, np.float64))
    draws = np.random.default_rng(seed).integers(0, len(logs), (RESAMPLES, len(logs)))
    medians = np.median(logs[draws], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return Ratio(*map(float, np.exp((np.median(logs), low, high))))

"""Weights of the three networks: where they come from, and loading them strictly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, dtype

from flashvsr_trt.errors import WeightsError
from flashvsr_trt.presets import NetworkConfig


@dataclass(frozen=True)
class PublishedFiles:
    """The four published files, wherever each was found (model.md section 1)."""

    dit: Path
    projector: Path
    decoder: Path
    prompt: Path


@dataclass(frozen=True)
class BundleFile:
    """One safetensors file written by `flashvsr-trt weights convert`."""

    path: Path


@dataclass(frozen=True)
class RandomSeed:
    """Seeded weights of the right shapes: they exercise the toolchain and upscale nothing."""

    seed: int


WeightsSource = PublishedFiles | BundleFile | RandomSeed


@dataclass(frozen=True)
class Weights:
    """State dicts under the official key names, on the CPU; `prompt` is [1, text_tokens, text_dim].

    `source` says in one line where they come from; `fingerprint` is a sha256 (64 hex digits) of the
    contents, the same for the same weights whether they came from four files or one bundle.
    """

    projector: Mapping[str, Tensor]
    dit: Mapping[str, Tensor]
    decoder: Mapping[str, Tensor]
    prompt: Tensor
    source: str
    fingerprint: str


def resolve_weights(spec: str | None, network: NetworkConfig, prompt: Path | None = None) -> WeightsSource:
    """Where the weights of `network` are. `spec` is a directory, a bundle, "random[:SEED]" or None.

    None looks at FLASHVSR_WEIGHTS, then the Hugging Face cache; a network that is not published
    (presets.py) gets RandomSeed(0). Raises WeightsError with what was tried and what to do.
    """
    raise WeightsError("unfinished")


def load_weights(source: WeightsSource, network: NetworkConfig, dtype: dtype | None = None) -> Weights:
    """Load strictly and memory-mapped. `dtype` casts every tensor; None keeps each as stored.

    Raises WeightsError naming the missing, unexpected and misshaped keys.
    """
    raise WeightsError("unfinished")


def describe(source: WeightsSource) -> str:
    """One line for the user: "random weights (seed 0): ..." or the files' directory."""
    raise WeightsError("unfinished")

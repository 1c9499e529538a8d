"""The golden vectors: inputs and outputs of the official code (tests/vectors/README.md)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from flashvsr_trt.config.presets import (
    AttentionConfig,
    DecoderConfig,
    DiTConfig,
    NetworkConfig,
    Preset,
    ProjectorConfig,
)
from flashvsr_trt.model.weights.load import Weights

VECTORS = Path(__file__).parent / "vectors"


@dataclass(frozen=True)
class Case:
    """One case of the manifest: its configuration and all its tensors by name."""

    name: str
    config: dict
    tensors: dict[str, torch.Tensor]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose name starts with `prefix`, without it."""
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}


@cache
def load_case(name: str) -> Case:
    cases = json.loads((VECTORS / "manifest.json").read_text())["cases"]
    entry = next(case for case in cases if case["name"] == name)
    tensors = {}
    for file in entry["files"]:
        renames = entry.get("key_prefix", {}).get(file)
        for key, tensor in load_file(VECTORS / file).items():
            if renames:
                match = next((old for old in renames if key.startswith(old)), None)
                if match is None:
                    continue
                key = renames[match] + key.removeprefix(match)
            tensors[key] = tensor.float() if tensor.is_floating_point() else tensor
    return Case(name, entry["config"], tensors)


def golden_preset(attention: AttentionConfig) -> Preset:
    """The tiny network of the DiT and end-to-end cases."""
    network = NetworkConfig(
        dit=DiTConfig(dim=64, heads=2, ffn_dim=160, layers=2, text_dim=48, text_tokens=8, freq_dim=32),
        projector=ProjectorConfig(hidden=(6, 10)),
        decoder=DecoderConfig(channels=(24, 16, 12, 8)),
    )
    return Preset("golden", "the golden vectors' network", network, attention, published=False)


def end_to_end_weights(case: Case) -> Weights:
    return Weights(
        parts={
            "projector": case.under("projector.weights."),
            "dit": case.under("dit.weights."),
            "decoder": case.under("tcdecoder.weights."),
            "prompt": {"prompt": case["dit.prompt"]},
        },
        source="golden vectors",
        version="golden",
        sha256={},
        content_sha256=dict.fromkeys(("projector", "dit", "decoder", "prompt"), "golden"),
    )


def assert_close_to_max(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference within `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max().item()
    largest = expected.abs().max().item()
    assert error <= tolerance * largest, f"error {error:.3g} against values up to {largest:.3g}"


def assert_within_levels(actual: np.ndarray, expected: np.ndarray, levels: int = 1) -> None:
    """8-bit samples differ by at most `levels`."""
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(np.int16) - expected.astype(np.int16)).max() <= levels

"""Fake published files of a tiny network, written as the real ones are."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from flashvsr_trt.config.presets import DecoderConfig, DiTConfig, NetworkConfig, ProjectorConfig
from flashvsr_trt.model.weights.published import FILES
from flashvsr_trt.model.weights.random import random_weights

TINY = NetworkConfig(
    dit=DiTConfig(dim=64, heads=2, ffn_dim=160, layers=2, text_dim=48, text_tokens=8, freq_dim=32),
    projector=ProjectorConfig(hidden=(6, 10)),
    decoder=DecoderConfig(channels=(24, 16, 12, 8)),
)

NARROW = replace(TINY, dit=replace(TINY.dit, dim=32, layers=1))


def write_files(directory: Path, network: NetworkConfig = TINY, seed: int = 3, **changed: dict) -> dict:
    """Write the four files, with whole parts replaced by keyword, and return what they hold."""
    parts = random_weights(network, seed) | changed
    directory.mkdir(parents=True, exist_ok=True)
    save_file(parts["dit"], directory / FILES["dit"].name)
    torch.save(
        {key: x.bfloat16() for key, x in parts["projector"].items()}, directory / FILES["projector"].name
    )
    torch.save(parts["decoder"], directory / FILES["decoder"].name)
    torch.save(parts["prompt"]["prompt"], directory / FILES["prompt"].name)
    return parts

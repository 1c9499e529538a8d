"""The official pipeline's clips: network, stream, noise, and an executor that keeps what they have."""

from collections.abc import Callable

import numpy as np
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.kernels.select_blocks import expand_mask
from flashvsr_trt.model.attention import SparseAttention
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.golden import Case, end_to_end_weights, golden_preset


def network_of(case: Case) -> Network:
    """Of a case's weights, on the CPU in float32."""
    preset = golden_preset(AttentionConfig(sparse_ratio=2.0))
    return build_network(preset.network, end_to_end_weights(case), torch.device("cpu"), torch.float32)


def stream_of(case: Case, schedule: str, upsampler: str) -> StreamConfig:
    """Of a case's frames, 2x."""
    _, height, width, _ = case["lr"].shape
    preset = golden_preset(AttentionConfig(sparse_ratio=2.0))
    return StreamConfig(preset, Geometry(height, width, 2), find_schedule(schedule), upsampler)


def golden_noise(case: Case) -> Callable[[int], np.ndarray]:
    """What `Session` takes a latent frame's noise from."""
    return lambda latent: case[f"noise.{latent // 2}"][0, :, latent % 2].numpy()


class RecordingExecutor(TorchExecutor):
    """Keeps each step's tokens, latents and first-layer block mask."""

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        super().__init__(network, stream)
        self.tokens: list[torch.Tensor] = []
        self.latents: list[torch.Tensor] = []
        self.masks: list[torch.Tensor] = []
        select = self.dit_stage.attention.select
        layers = stream.preset.network.dit.layers

        def recorded(*arguments):
            index, count = select(*arguments)
            self.masks.append(expand_mask(index, count))
            return index, count

        assert isinstance(self.dit_stage.attention, SparseAttention)
        self.dit_stage.attention.select = recorded
        self.first_layer_masks = lambda: self.masks[::layers]

    def dit(self, noise, tokens, rope, step, state):
        latents = super().dit(noise, tokens, rope, step, state)
        self.tokens += tokens
        self.latents += latents
        return latents


def skip_two(latent: int) -> int:
    """The streaming clip's position of a latent frame."""
    return latent if latent < 2 else latent + 2


def as_official(latent: torch.Tensor) -> torch.Tensor:
    """[1, C, T, h, w]."""
    return latent.transpose(0, 1)[None]

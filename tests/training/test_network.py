"""What is trained is what runs: whole clips in one pass against the executor's stream of calls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.color import fix_color
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.stages import Decode
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.model.weights.random import random_weights
from flashvsr_trt.runtime.session import Session, latent_noise
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.training.small import small_preset
from training.network import TrainableNetwork, clip_frames, latent_size, upscale_frames

UNITS = 5


class KeepFloats(Decode):
    """Decode that notes the frames before they become bytes."""

    def __init__(self, network, stream):
        super().__init__(network, stream)
        self.kept = []

    def finish(self, frames, condition):
        self.kept.append(fix_color(frames.float() * 2 - 1, condition, self.color_fix))
        return super().finish(frames, condition)


@pytest.mark.parametrize(
    ("schedule", "attention"),
    [
        ("official", AttentionConfig(0.1, local_range=3)),
        ("low-latency", AttentionConfig(2.0)),
        ("official", AttentionConfig(None)),
    ],
)
@torch.no_grad()
def test_a_clip_in_one_pass_is_what_the_executor_streams(schedule, attention):
    preset = replace(small_preset(), attention=attention)
    size = (64, 128) if attention.local_range == 3 else (40, 64)
    stream = StreamConfig(preset, Geometry(*size, 2), find_schedule(schedule))
    weights = load_weights(resolve_weights("random:3", preset.network), preset.network, torch.float32)
    network = build_network(preset.network, weights, torch.device("cpu"), torch.float32)
    executor = TorchExecutor(network, stream)
    executor.decode_stage = keeper = KeepFloats(network, stream)
    frames = np.random.default_rng(1).integers(0, 256, (clip_frames(UNITS, stream), *size, 3), np.uint8)
    session = Session(executor, seed=5)
    session.push(frames)

    shape = latent_size(stream, 1, UNITS)
    noise = np.stack([latent_noise(5, latent, shape[-2:]) for latent in range(shape[1])])
    trained = TrainableNetwork(preset.network, random_weights(preset.network, 3))
    # A second clip in the batch must change nothing in the first.
    clips = torch.stack([torch.from_numpy(frames), torch.from_numpy(frames).flip(0)])
    made = trained(upscale_frames(clips, stream), torch.from_numpy(noise)[None].repeat(2, 1, 1, 1, 1), stream)

    streamed = torch.cat(keeper.kept)[3:]
    assert len(streamed) == made.shape[1]
    assert (made[0] - streamed).abs().max() < 1e-4

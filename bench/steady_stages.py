"""What benchmarks run: seeded weights, seeded frames, and each stage of a steady step alone."""

import numpy as np
import torch

from flashvsr_trt.config.presets import UNIT_FRAMES, NetworkConfig
from flashvsr_trt.config.rope import time_table
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.noise import latent_noise
from flashvsr_trt.runtime.request import DIT_PRECISIONS, TorchOptions
from flashvsr_trt.runtime.ring import KVRing
from flashvsr_trt.runtime.torch.precision import fp8_products

WEIGHTS = "random:0"


def load_random(
    config: NetworkConfig,
    dtype: torch.dtype,
    device: str | torch.device,
    precision: str = DIT_PRECISIONS[0],
    source: str = WEIGHTS,
) -> Network:
    """A network with seeded weights, or those of `source`; `precision` as in `TorchOptions`."""
    weights = load_weights(resolve_weights(source, config), config, dtype)
    device = torch.device(device)
    fp8 = fp8_products(TorchOptions(precision=precision), device, dtype, config)
    return build_network(config, weights, device, dtype, fp8)


def random_frames(stream: StreamConfig, count: int) -> np.ndarray:
    """uint8 [count, H, W, 3]."""
    shape = (count, stream.geometry.height, stream.geometry.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


class SteadyStages:
    """Each stage of one backend as a call without arguments, with the ring full.

    Any stage may be called alone, any number of times.
    """

    def __init__(self, executor: Executor) -> None:
        stream = executor.stream
        self.executor, self.state = executor, executor.new_state()
        self.frames = random_frames(stream, UNIT_FRAMES)
        self.noise = np.stack([latent_noise(0, latent, stream.geometry.latent) for latent in range(2)])
        self.rope = time_table(np.arange(2), stream.preset.network.dit.head_dim)
        self.ring = KVRing(stream.preset.attention)
        self.first = True
        for _ in range(stream.preset.attention.ring_slots):
            self.decoded = self.unit()

    def encode(self) -> None:
        """One unit's condition and tokens."""
        self.condition, self.tokens = self.executor.encode(self.frames, self.first, self.state)
        self.first = False

    def dit(self) -> None:
        """One DiT step."""
        step = self.ring.step(1)
        (self.latent,) = self.executor.dit(self.noise, [self.tokens], self.rope, step, self.state)

    def decode(self) -> np.ndarray:
        """One unit's frames."""
        return self.executor.start_decode(self.latent, self.condition, self.state)()

    def unit(self) -> np.ndarray:
        """All three stages."""
        self.encode()
        self.dit()
        return self.decode()

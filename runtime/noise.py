"""The noise a latent frame starts from: one draw per latent frame, whatever the chunking."""

import numpy as np

from flashvsr_trt.config.presets import LATENT_CHANNELS


def latent_noise(seed: int, latent_frame: int, size: tuple[int, int]) -> np.ndarray:
    """Standard normal float32 [16, h, w] of one latent frame, a function of its three arguments alone.

    The counter-based generator is keyed by seed and frame, so frames can be drawn in any order.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, latent_frame], dtype=np.uint64)))
    return generator.standard_normal((LATENT_CHANNELS, *size), dtype=np.float32)

"""The noise a latent frame starts from: one draw per latent frame, whatever the chunking."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from flashvsr_trt.config.presets import LATENT_CHANNELS, UNIT_LATENT_FRAMES


def latent_noise(seed: int, latent_frame: int, size: tuple[int, int]) -> np.ndarray:
    """Standard normal float32 [16, h, w] of one latent frame, a function of its three arguments alone.

    The counter-based generator is keyed by seed and frame, so frames can be drawn in any order.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, latent_frame], dtype=np.uint64)))
    return generator.standard_normal((LATENT_CHANNELS, *size), dtype=np.float32)


class NoiseAhead:
    """The noise of a clip's DiT steps; the next steady step's is drawn while this one is worked on.

    At 2560x1408 a draw keeps a core busy for a third of the time that four GPUs take for a unit.
    """

    def __init__(self, draw: Callable[[int], np.ndarray]) -> None:
        """`draw` gives one latent frame's noise, in any thread."""
        self.draw = draw
        self.thread = ThreadPoolExecutor(1, "noise")
        self.next_latents = range(0)
        self.next_noise: Future[np.ndarray] | None = None

    def step(self, latents: range) -> np.ndarray:
        """float32 [latents, 16, h, w] of these latent frames."""
        ready = self.next_noise if self.next_latents == latents else None
        noise = ready.result() if ready else self._draw(latents)
        self.next_latents = range(latents.stop, latents.stop + UNIT_LATENT_FRAMES)
        self.next_noise = self.thread.submit(self._draw, self.next_latents)
        return noise

    def _draw(self, latents: range) -> np.ndarray:
        return np.stack([self.draw(latent) for latent in latents])

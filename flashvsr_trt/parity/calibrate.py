"""Which products may be in FP8 with a user's weights on the user's clips: one by one, then together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import UsageError
from flashvsr_trt.model.fused_projector import CONVOLUTIONS
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.running_dit import ATTENTION
from flashvsr_trt.parity.compare import run_clip
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.request import TorchOptions
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.precision import fp8_choices

EQUAL = 99.0
"""Stands for the PSNR of frames that are equal, which is infinite: JSON has no such number."""


@dataclass
class Clip:
    """A clip as it runs without FP8: each DiT step's arguments and latents, and the frames that come out."""

    stream: StreamConfig
    given: np.ndarray
    steps: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)
    frames: np.ndarray = field(default_factory=lambda: np.empty(0))


class RecordingExecutor(TorchExecutor):
    """A torch executor that keeps what its DiT steps take and give."""

    clip: Clip

    def dit(self, noise: Any, tokens: Any, rope: Any, step: Any, state: Any) -> list[torch.Tensor]:
        """See `Executor.dit`; the state is not kept."""
        latents = super().dit(noise, tokens, rope, step, state)
        self.clip.steps.append((noise, tokens, rope, step))
        self.clip.latents += [latent.clone() for latent in latents]
        return latents


def record(network: Network, stream: StreamConfig, frames: np.ndarray) -> Clip:
    """Frames uint8 [T, H, W, 3] through a network that has nothing in FP8 yet."""
    executor = RecordingExecutor(network, stream, TorchOptions(cuda_graphs=False))
    executor.clip = Clip(stream, frames)
    executor.clip.frames = run_clip(executor, frames)
    return executor.clip


def latent_error(network: Network, clip: Clip) -> float:
    """Of the clip's latents, relative, with the network as it is now; its inputs are the recorded ones."""
    executor = TorchExecutor(network, clip.stream, TorchOptions(cuda_graphs=False))
    state = executor.new_state()
    return relative_error([latent for step in clip.steps for latent in executor.dit(*step, state)], clip)


def encoded_error(network: Network, clip: Clip) -> float:
    """As `latent_error`, with the clip encoded anew."""
    return relative_error(record(network, clip.stream, clip.given).latents, clip)


def relative_error(latents: Sequence[torch.Tensor], clip: Clip) -> float:
    """Of latents to the clip's."""
    pairs = zip(latents, clip.latents, strict=True)
    error, size = (
        sum(float(part.float().square().sum()) for part in parts)
        for parts in ([got - wanted for got, wanted in pairs], clip.latents)
    )
    return (error / size) ** 0.5


def worst_psnr(network: Network, clip: Clip) -> float:
    """Of the clip's chunks, in dB, with the network as it is now."""
    executor = TorchExecutor(network, clip.stream, TorchOptions(cuda_graphs=False))
    cuts = range(UNIT_FRAMES, len(clip.given), UNIT_FRAMES)
    both = (np.split(frames, cuts) for frames in (clip.frames, run_clip(executor, clip.given)))
    return min(EQUAL, *(psnr(*pair) for pair in zip(*both, strict=True)))


class Measured:
    """A network that takes products in FP8 and goes back."""

    def __init__(self, network: Network) -> None:
        self.network, self.dit = network, network.dit
        self.linears = {
            name: layer for name, layer in self.dit.named_modules() if isinstance(layer, nn.Linear)
        }
        self.convolutions = dict(network.projector.named_children())

    def with_products(self, chosen: Iterable[str], measure: Callable[[Network], float]) -> float:
        """What `measure` gives while these products are in FP8, and no other."""
        in_fp8 = set(chosen).__contains__
        self.network.projector.quantise(in_fp8)
        self.dit.quantise(in_fp8)
        try:
            return measure(self.network)
        finally:
            self.dit.restore(self.linears)
            for name, layer in self.convolutions.items():
                self.network.projector.set_submodule(name, layer)


@torch.inference_mode()
def product_errors(network: Network, clips: Sequence[Clip]) -> dict[str, float]:
    """Error of the latents by product, of the clip where it is largest, where this alone is in FP8.

    Of dense attention, which has no form in FP8, there is none.
    """
    measured, preset = Measured(network), clips[0].stream.preset

    def error(name: str) -> float:
        of_clip = encoded_error if name in CONVOLUTIONS else latent_error
        return measured.with_products([name], lambda running: max(of_clip(running, clip) for clip in clips))

    names = fp8_choices(network.device, preset.network)
    dense = preset.attention.sparse_ratio is None
    return {name: error(name) for name in names if not (dense and name == ATTENTION)}


@torch.inference_mode()
def choose_kept(
    network: Network, clips: Sequence[Clip], errors: dict[str, float], wanted: float
) -> tuple[list[str], float]:
    """The fewest products to keep out of FP8, worst first, and the worst chunk's PSNR in dB then.

    Raises:
        UsageError: not even all but one kept reach `wanted` dB.
    """
    worst_first, measured = sorted(errors, key=errors.__getitem__, reverse=True), Measured(network)

    def quality(kept: int) -> float:
        return measured.with_products(
            worst_first[kept:], lambda running: min(worst_psnr(running, clip) for clip in clips)
        )

    least, most, found = 0, len(worst_first), None
    # Keeping more helps: halve what is left between too few and enough.
    while least < most:
        kept = (least + most) // 2
        reached = quality(kept)
        if reached >= wanted:
            most, found = kept, reached
        else:
            least = kept + 1
    if found is None:
        raise UsageError(
            f"no choice of products reaches {wanted} dB on these clips; ask for less with --psnr"
        )
    return worst_first[:most], found

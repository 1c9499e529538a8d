"""The three networks with their weights in, ready to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.model.decoder import Decoder
from flashvsr_trt.model.decoder_range import in_range
from flashvsr_trt.model.dit import DiT
from flashvsr_trt.model.fused_decoder import FusedDecoder
from flashvsr_trt.model.fused_projector import CONVOLUTIONS, FusedProjector
from flashvsr_trt.model.projector import Projector
from flashvsr_trt.model.running_dit import RunningDiT, product_names
from flashvsr_trt.model.weights.load import Weights

Part = TypeVar("Part", bound=nn.Module)

FOLDED = ("text_embedding", "time_embedding", "time_projection", "cross_attn.k", "cross_attn.v", "prompt")
"""Weights of which constants are made, once: the prompt's keys and values stay in place of them."""


def fp8_names(layers: int) -> list[str]:
    """What may be in FP8: the projector's convolutions, and what the DiT multiplies."""
    return [*CONVOLUTIONS, *product_names(layers)]


def is_folded(name: str) -> bool:
    """Whether a weight of that name is gone once the network is built."""
    return any(folded in name for folded in FOLDED)


@dataclass(frozen=True)
class Network:
    """Loaded modules on one device in one dtype; in the DiT timestep and prompt are folded."""

    projector: FusedProjector
    dit: RunningDiT
    decoder: FusedDecoder

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.dit.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the projector and the DiT compute in."""
        return self.dit.head.weight.dtype


@torch.no_grad()
def build_network(
    config: NetworkConfig,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    fp8: Callable[[str], bool] | None = None,
) -> Network:
    """Put weights into the modules without a second copy on the way; `fp8` is true of those of
    `fp8_names` that are to be in FP8.

    Raises:
        RuntimeError: the weights do not fit the modules (`load_weights` has checked that they do).
        WeightsError: what they compute is beyond the range of `dtype`.
    """
    projector = FusedProjector(_load(Projector, config, weights.parts["projector"], device, dtype))
    dit = _load(DiT, config, weights.parts["dit"], device, dtype)
    decoder = in_range(_load(Decoder, config, weights.parts["decoder"], device, torch.float32), dtype)
    running_dit = RunningDiT(dit, dit.constants(weights.prompt.to(device)))
    if fp8:
        projector.quantise(fp8)
        running_dit.quantise(fp8)
    return Network(projector, running_dit, FusedDecoder(decoder, dtype))


def _load(
    kind: type[Part],
    config: NetworkConfig,
    state: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Part:
    with torch.device("meta"):
        module = kind(config)
    module.load_state_dict(dict(state), strict=True, assign=True)
    # What only constants are made of comes last: once it is dropped, what it took is one piece.
    for _, parameter in sorted(module.named_parameters(), key=lambda named: is_folded(named[0])):
        parameter.data = parameter.data.to(device=device, dtype=dtype)
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)

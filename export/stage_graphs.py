"""The stages with flat arguments: tensors in and out in the order of their signatures."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from flashvsr_trt.config.signatures import DECODE, DECODE_TILE, DIT, DIT_FIRST, ENCODE, StreamConfig
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.exported_decoder import exported_decoder
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.stages import Decode, Denoise, Encode


def exported_network(network: Network) -> Network:
    """A loaded network with its decoder frame by frame: fewer copies in an engine, the same results."""
    return replace(network, decoder=exported_decoder(network.decoder))


CACHE_PARTS = 3
"""Keys, values and key means: what each layer has of each cache."""


class StageGraph(nn.Module):
    """A stage whose arguments and results are the tensors of its signature, one by one.

    `kind` is the stage's class.
    """

    kind: type[nn.Module]

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        super().__init__()
        self.stage: Any = self.kind(network, stream)


class EncodeGraph(StageGraph):
    kind = Encode

    def forward(
        self, frames: torch.Tensor, first: torch.Tensor, *state: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return self.stage(frames, first, *state)


class DenoiseGraph(StageGraph):
    kind = Denoise

    def forward(
        self,
        noise: torch.Tensor,
        tokens: torch.Tensor,
        time_cos: torch.Tensor,
        time_sin: torch.Tensor,
        slot_valid: torch.Tensor,
        *ring: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        caches = [LayerCache(*ring[at : at + CACHE_PARTS]) for at in range(0, len(ring), CACHE_PARTS)]
        latent, new = self.stage(noise, tokens, time_cos, time_sin, slot_valid, caches)
        return latent, *(part for cache in new for part in (cache.keys, cache.values, cache.key_means))


class DecodeGraph(StageGraph):
    kind = Decode

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, *memory: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        frames, next_memory = self.stage(latent, condition, list(memory))
        return frames, *next_memory


class DecodeTileGraph(DecodeGraph):
    """`Decode` as far as the decoder goes."""

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, *memory: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        frames, next_memory = self.stage.decode(latent, condition, list(memory))
        return frames.float(), *next_memory


GRAPHS = {
    ENCODE: EncodeGraph,
    DIT: DenoiseGraph,
    DIT_FIRST: DenoiseGraph,
    DECODE: DecodeGraph,
    DECODE_TILE: DecodeTileGraph,
}
"""Graph name of `signatures` -> its module, made of (network, stream)."""

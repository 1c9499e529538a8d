"""The three stages on one rank of several: this rank's rows, tokens and heads of `stages.py`.

Every rank calls the same stage at the same time.
"""

from functools import cache

import torch

from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.model.attention import LayerCache, self_attention_for
from flashvsr_trt.model.dit import from_patches, to_patches
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.ranks import Ranks
from flashvsr_trt.model.sharded_attention import ShardedAttention
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.model.stages import Denoise
from flashvsr_trt.model.token_exchange import TokenExchange
from flashvsr_trt.model.windows import to_windows


class ShardedDenoise(Denoise):
    """The whole noise and this rank's rows of tokens to its rows of the latent."""

    def __init__(self, network: Network, sharding: Sharding, ranks: Ranks) -> None:
        stream = sharding.stream
        whole = self_attention_for(stream.geometry, stream.preset.attention, ranks.device)
        super().__init__(network, stream, ShardedAttention(whole, sharding, ranks))
        self.sharding, self.rank = sharding, ranks.rank
        self.exchange = cache(lambda units: TokenExchange(sharding, ranks, units))

    def forward(
        self,
        noise: torch.Tensor,
        tokens: torch.Tensor,
        time_cos: torch.Tensor,
        time_sin: torch.Tensor,
        slot_valid: torch.Tensor,
        ring: list[LayerCache],
    ) -> tuple[torch.Tensor, list[LayerCache]]:
        """See `Denoise.forward`; the ring and the new K/V are of this rank's heads."""
        units = noise.shape[0] // UNIT_LATENT_FRAMES
        exchange, run = self.exchange(units), self.sharding.tokens(units)[self.rank]
        rope = tuple(table[run] for table in self.rope_table(time_cos, time_sin))
        patches = to_windows(to_patches(noise), self.grid)[run]
        x = self.dit.embed(patches.to(tokens.dtype)) + exchange.to_windows(tokens)
        new = []
        for block, constants, layer_ring in zip(self.dit.blocks, self.constants.blocks, ring, strict=True):
            x, layer_new = block(x, rope, constants, layer_ring, slot_valid, self.attention)
            new.append(layer_new)
        velocity = exchange.to_rows(self.dit.head(x, self.constants.head_modulation))
        own_grid = length(self.sharding.rows[self.rank]), self.grid[1]
        own_noise = noise[:, :, self.sharding.latent_rows[self.rank]]
        return own_noise - from_patches(velocity, own_grid).float(), new

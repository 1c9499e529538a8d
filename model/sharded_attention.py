"""Self-attention shared by heads: all-to-all from each rank's tokens to its heads, and back.

Blocks are selected and attended to per head, so sparse attention is as exact as dense.
"""

import torch

from flashvsr_trt.model.attention import Attention, LayerCache
from flashvsr_trt.model.ranks import Ranks
from flashvsr_trt.model.sharding import Sharding, length

KIND = "attention"


class ShardedAttention(Attention):
    """`whole` on this rank's heads. The ring holds the keys and values of these heads only."""

    def __init__(self, whole: Attention, sharding: Sharding, ranks: Ranks) -> None:
        self.whole, self.ranks = whole, ranks
        self.heads = sharding.heads

    def cache(self, k: torch.Tensor, v: torch.Tensor, ring: LayerCache) -> LayerCache:
        """Keys and values of this rank's tokens and all heads -> those of all tokens and its heads."""
        k, v = self._to_heads(k), self._to_heads(v)
        if not k.shape[1]:
            units = k.shape[0] // ring.keys.shape[1]
            parts = (ring.keys, ring.values, ring.key_means)
            return LayerCache(*(part.new_empty((units, *part.shape[1:])) for part in parts))
        return self.whole.cache(k, v, ring)

    def __call__(
        self, q: torch.Tensor, new: LayerCache, ring: LayerCache, slot_valid: torch.Tensor
    ) -> torch.Tensor:
        """Queries [tokens/N, heads, head_dim] -> the same shape."""
        q = self._to_heads(q)
        # A rank without heads still has tokens, so it takes part in both exchanges.
        attended = self.whole(q, new, ring, slot_valid) if q.shape[1] else q
        return self._to_tokens(attended)

    def _to_heads(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens/N, heads, head_dim] -> [tokens, own heads, head_dim]."""
        tokens, _, head_dim = x.shape
        own = length(self.heads[self.ranks.rank])
        counts = [tokens * own * head_dim] * self.ranks.size
        arrived = self.ranks.all_to_all([x[:, heads] for heads in self.heads], counts, KIND)
        return arrived.view(tokens * self.ranks.size, own, head_dim)

    def _to_tokens(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `_to_heads`."""
        head_dim = x.shape[2]
        parts = x.chunk(self.ranks.size)
        tokens = parts[0].shape[0]
        counts = [tokens * length(heads) * head_dim for heads in self.heads]
        arrived = self.ranks.all_to_all(parts, counts, KIND).split(counts)
        split = [
            part.view(tokens, length(heads), head_dim)
            for part, heads in zip(arrived, self.heads, strict=True)
        ]
        return torch.cat(split, dim=1)

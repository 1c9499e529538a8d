"""K/V rings kept in float8_e4m3fn: half the bytes, with a scale for each window and head.

Attention reads no such keys: a layer's units are made numbers of its own dtype again just before it runs, in
one place that all layers share.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from flashvsr_trt.model.attention import LayerCache

LARGEST = 448.0
"""Of float8_e4m3fn."""

LEAST_SCALE = 2.0**-14
"""So that a scale is no subnormal number in float16 either."""


@dataclass(frozen=True)
class Fp8Cache:
    """A `LayerCache` whose keys and values are float8_e4m3fn, times a scale [slots, W, heads] float32."""

    keys: torch.Tensor
    values: torch.Tensor
    key_means: torch.Tensor
    key_scales: torch.Tensor
    value_scales: torch.Tensor

    @staticmethod
    def like(layer: LayerCache, device: torch.device) -> "Fp8Cache":
        """One of the layer's shapes, zero."""
        keys, values = (
            torch.zeros_like(x, dtype=torch.float8_e4m3fn, device=device) for x in (layer.keys, layer.values)
        )
        means = torch.zeros_like(layer.key_means, device=device)
        return Fp8Cache(keys, values, means, *(torch.zeros_like(means[..., 0]) for _ in range(2)))

    def read(self, slots: Iterable[int], place: LayerCache) -> LayerCache:
        """These slots as they were written, in the keys and values of `place`, with this ring's own means."""
        for slot in slots:
            for kept, scales, made in self._pairs(place):
                made[slot].copy_(kept[slot])
                _windows(made[slot], scales[slot]).mul_(scales[slot][:, None, :, None])
        return LayerCache(place.keys, place.values, self.key_means)

    def write(self, slots: Iterable[int], layer: LayerCache) -> None:
        """Keep what a layer wrote into these slots."""
        for slot in slots:
            for kept, scales, made in self._pairs(layer):
                windows = _windows(made[slot], scales[slot])
                # Powers of two: what is rounded is rounded once.
                largest = torch.linalg.vector_norm(windows, torch.inf, dim=(1, 3)).float()
                scale = (largest / LARGEST).clamp(min=LEAST_SCALE).log2().ceil().exp2()
                scales[slot].copy_(scale)
                kept[slot].copy_((windows / scale.to(windows.dtype)[:, None, :, None]).view(kept[slot].shape))

    def _pairs(self, layer: LayerCache) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        yield self.keys, self.key_scales, layer.keys
        yield self.values, self.value_scales, layer.values


def running_layers(
    ring: Iterable[Fp8Cache], place: LayerCache, seen: Iterable[int], written: Iterable[int]
) -> Iterator[LayerCache]:
    """Each layer's ring while it runs: the slots that it sees are read, those that it wrote are kept."""
    for kept in ring:
        layer = kept.read(seen, place)
        yield layer
        kept.write(written, layer)


def _windows(x: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, head_dim] in window order -> [W, tokens of a window, heads, head_dim]."""
    return x.unflatten(0, (scales.shape[0], -1))

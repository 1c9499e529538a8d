"""K/V rings kept in float8_e4m3fn: half the bytes, with a scale for each window and head (`--kv-cache fp8`).

Where attention reads such a ring, a layer's new units are in memory of their own until it has read them too.
Elsewhere a layer's units are made numbers of its own dtype just before it runs, in one place that all layers
share. Which it is, `kernels/tuning.json` says by architecture and head_dim.
"""

from collections.abc import Iterable, Iterator

import torch

from flashvsr_trt.kernels.scaled_windows import quantise_windows, widen_windows
from flashvsr_trt.model.attention import Fp8Cache, LayerCache


def zero_fp8_cache(layer: LayerCache, device: torch.device) -> Fp8Cache:
    """One of the layer's shapes, zero."""
    keys, values = (
        torch.zeros_like(x, dtype=torch.float8_e4m3fn, device=device) for x in (layer.keys, layer.values)
    )
    means = torch.zeros_like(layer.key_means, device=device)
    return Fp8Cache(keys, values, means, *(torch.zeros_like(means[..., 0]) for _ in range(2)))


def wide_units(kept: Fp8Cache, dtype: torch.dtype) -> LayerCache:
    """Memory in `dtype` for the keys and values of as many units, with the ring's own means."""
    keys, values = (torch.empty_like(x, dtype=dtype) for x in (kept.keys, kept.values))
    return LayerCache(keys, values, kept.key_means)


def keep_units(made: LayerCache, kept: Fp8Cache) -> None:
    """Quantise the keys and values of units [units, tokens, heads, head_dim] into `kept`, of as many."""
    # One unit at a time: the reference needs as much memory again.
    for unit in range(len(made.keys)):
        quantise_windows(made.keys[unit], kept.keys[unit], kept.key_scales[unit])
        quantise_windows(made.values[unit], kept.values[unit], kept.value_scales[unit])


def widen_slots(kept: Fp8Cache, slots: Iterable[int], place: LayerCache) -> LayerCache:
    """These slots as they were written, in the keys and values of `place`, with the ring's own means."""
    for slot in slots:
        widen_windows(kept.keys[slot], kept.key_scales[slot], place.keys[slot])
        widen_windows(kept.values[slot], kept.value_scales[slot], place.values[slot])
    return LayerCache(place.keys, place.values, kept.key_means)


def widened_layers(
    ring: Iterable[Fp8Cache], place: LayerCache, seen: Iterable[int], written: slice
) -> Iterator[LayerCache]:
    """Each layer's ring while it runs: the slots that it sees are widened, those that it wrote are kept."""
    for kept in ring:
        layer = widen_slots(kept, seen, place)
        yield layer
        keep_units(layer.part(written), kept.part(written))

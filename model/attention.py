"""Self-attention of a DiT block over the current units and the K/V ring: sparse and dense."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, Self, cast

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig
from flashvsr_trt.kernels.block_sparse_attention_fp8 import AttentionScales, block_sparse_attention_fp8
from flashvsr_trt.kernels.block_sparse_attention_scaled import block_sparse_attention_scaled
from flashvsr_trt.kernels.calls import record_call, runs_kernel
from flashvsr_trt.kernels.select_blocks import block_probability, local_neighbourhood
from flashvsr_trt.kernels.torch_ops import block_sparse_attention, select_blocks


@dataclass(frozen=True)
class LayerCache:
    """Keys (after RoPE) and values of one layer, in window order, unit by unit.

    As the ring: `slots` units. As the result of a step: the step's own units.
    keys, values: [slots, tokens, heads, head_dim]; key_means: [slots, W, heads, head_dim] float32.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_means: torch.Tensor

    def part(self, slots: slice) -> Self:
        """These slots, in place."""
        return type(self)(*(part[slots] for part in vars(self).values()))

    def empty(self, units: int) -> "LayerCache":
        """Memory for `units` units like these, not filled."""
        return type(self)(*(part.new_empty(units, *part.shape[1:]) for part in vars(self).values()))


@dataclass(frozen=True)
class E4m3Cache(LayerCache):
    """Keys and values in e4m3, values less value_means [slots, heads, head_dim] float32: one for all slots.

    Values are laid out as `kernels.block_sparse_attention_fp8.store_values` does.
    """

    value_means: torch.Tensor


@dataclass(frozen=True)
class Fp8Cache(LayerCache):
    """Keys and values in e4m3, times a scale [slots, W, heads] float32 (`model/fp8_cache.py`)."""

    key_scales: torch.Tensor
    value_scales: torch.Tensor


@dataclass(frozen=True)
class StepCache:
    """A layer's keys and values in a step: `new` is written, then `ring` and `own` are attended to.

    `new` are slots of `ring` from `slot` on, and `own` is empty; or tensors of their own, and `own` is `new`.
    `before` is a slot of `ring` that was there before the step, None where there was none. While attention
    runs over an `Fp8Cache`, `new` stand in for their slots in another dtype.
    """

    new: LayerCache
    ring: LayerCache
    own: LayerCache
    before: int | None = None
    slot: int = 0


class Attention(Protocol):
    """What a DiT block asks of its self-attention."""

    def attend(
        self,
        q: torch.Tensor,
        q_means: torch.Tensor,
        cache: StepCache,
        slot_valid: torch.Tensor | None,
        scales: AttentionScales | None = None,
    ) -> torch.Tensor:
        """Queries [units*tokens, heads, head_dim] to the step's own units and the ring's valid slots.

        `q_means` are the window means of q; `slot_valid` [slots] is None where all slots are valid.
        """
        ...


class SparseAttention(Attention):
    """Locality-constrained block-sparse attention, blocks chosen per head and query unit."""

    def __init__(
        self, geometry: Geometry, attention: AttentionConfig, device: torch.device | str = "cpu"
    ) -> None:
        # On the device from the start: a copy from the host could not be captured in a CUDA graph.
        self.neighbourhood = local_neighbourhood(*geometry.windows, attention.local_range).to(device)
        self.top_k = geometry.top_k(attention)

    def attend(
        self,
        q: torch.Tensor,
        q_means: torch.Tensor,
        cache: StepCache,
        slot_valid: torch.Tensor | None,
        scales: AttentionScales | None = None,
    ) -> torch.Tensor:
        own, ring = cache.own, cache.ring
        # Only dense attention is ever without one.
        selected = self.select(q_means, cache, cast(torch.Tensor, slot_valid))
        if isinstance(cache.new, E4m3Cache) and scales:
            means = cache.new.value_means[0]
            return block_sparse_attention_fp8(q, ring.keys, ring.values, means, *selected, scales)
        if isinstance(ring, Fp8Cache):
            new = cache.new.keys.flatten(0, 1), cache.new.values.flatten(0, 1)
            kept = ring.keys, ring.values, ring.key_scales, ring.value_scales
            return block_sparse_attention_scaled(q, *new, *kept, cache.slot, *selected)
        return block_sparse_attention(
            q, own.keys.flatten(0, 1), own.values.flatten(0, 1), ring.keys, ring.values, *selected
        )

    def select(
        self, q_means: torch.Tensor, cache: StepCache, slot_valid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The kept blocks as (index, count); see `kernels.select_blocks`."""
        own, ring = cache.own, cache.ring
        k_means = torch.cat([ring.key_means, own.key_means]) if len(own.key_means) else ring.key_means
        k_means = k_means.flatten(0, 1)
        probability = block_probability(q_means, k_means, slot_valid, self.neighbourhood)
        return select_blocks(probability, slot_valid, self.top_k)


class DenseAttention(Attention):
    """Attention to every token of the valid slots and of all units of the step.

    Where the ring holds the step's units and `slot_valid` is None nothing is concatenated and nothing masked,
    so that the framework's fastest attention can run.
    """

    def attend(
        self,
        q: torch.Tensor,
        q_means: torch.Tensor,
        cache: StepCache,
        slot_valid: torch.Tensor | None,
        scales: AttentionScales | None = None,
    ) -> torch.Tensor:
        record_call("dense_attention", "torch")
        own, ring = cache.own, cache.ring
        keys, values = ring.keys, ring.values
        if len(own.keys):
            keys, values = torch.cat([keys, own.keys]), torch.cat([values, own.values])
        visible = None
        if slot_valid is not None:
            unit_valid = torch.cat([slot_valid, slot_valid.new_ones(own.keys.shape[0])])
            visible = unit_valid.repeat_interleave(keys.shape[1])[None, None]
        with fused_attention(q, visible):
            # The batch axis of one is for the exporter, which translates 4-D attention only.
            attended = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None], heads_first(keys)[None], heads_first(values)[None], attn_mask=visible
            )
        return attended[0].transpose(0, 1)


def fused_attention(q: torch.Tensor, visible: torch.Tensor | None) -> AbstractContextManager:
    """Within it 16-bit attention without a mask runs by cuDNN or flash, in torch's order, or is an error.

    Another kernel of torch's would need the scores of all tokens in memory, or take several times as long.
    """
    if runs_kernel(q) and visible is None and q.dtype in (torch.bfloat16, torch.float16):
        return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION])
    return nullcontext()


def heads_first(cache: torch.Tensor) -> torch.Tensor:
    """[units, tokens, heads, head_dim] -> [heads, units*tokens, head_dim]."""
    return cache.flatten(0, 1).transpose(0, 1)


def self_attention_for(
    geometry: Geometry, attention: AttentionConfig, device: torch.device | str = "cpu"
) -> Attention:
    if attention.sparse_ratio is None:
        return DenseAttention()
    return SparseAttention(geometry, attention, device)

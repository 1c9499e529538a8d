"""The DiT's blocks through fused operators, writing keys and values in place: what the torch executor runs.

`dit.Block` and `dit.DiT` are the specification; the modules and weights are theirs. The operators'
implementation on a CPU is their twin, so the same lines run on both devices.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import PATCH
from flashvsr_trt.kernels.linear_gelu import linear_gelu
from flashvsr_trt.kernels.torch_fused_ops import add_norm, norm_rope
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.dit import (
    Block,
    BlockConstants,
    DiT,
    DiTConstants,
    JoinedSelfAttention,
    from_patches,
    modulated_norm,
    to_patches,
)
from flashvsr_trt.model.windows import from_windows, to_windows

NormParameters = tuple[torch.Tensor, torch.Tensor]
"""Scale and shift of a LayerNorm, [dim] each; for a modulated one, 1 + scale and shift."""


class RingAttention(Protocol):
    """Self-attention where the step's own keys and values are slots of the ring."""

    def attend(
        self,
        q: torch.Tensor,
        q_means: torch.Tensor,
        new: LayerCache,
        ring: LayerCache,
        slot_valid: torch.Tensor,
    ) -> torch.Tensor:
        """See `SparseAttention.attend`; `new` is empty."""


class FusedBlock(nn.Module):
    """A block between two norms: it takes its first norm's result and gives the next one's."""

    def __init__(self, block: Block, constants: BlockConstants, next_norm: NormParameters) -> None:
        super().__init__()
        self.heads, self.eps = block.heads, block.eps
        self.self_attn = JoinedSelfAttention(block.self_attn)
        self.cross_attn, self.ffn = block.cross_attn, block.ffn
        self.cross_k, self.cross_v = constants.cross_k, constants.cross_v
        _, _, self.attention_gate, shift2, scale2, self.ffn_gate = constants.modulation.unbind()
        self.prompt_norm: NormParameters = (block.norm3.weight, block.norm3.bias)
        self.ffn_norm: NormParameters = (1 + scale2, shift2)
        self.next_norm = next_norm

    def forward(
        self,
        x: torch.Tensor,
        h: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        new: LayerCache,
        ring: LayerCache,
        slot_valid: torch.Tensor,
        attention: RingAttention,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens x [tokens, dim] and their norm h -> the same after the block; `new` is written."""
        attended = self._attend(h, rope, new, ring, slot_valid, attention)
        x, h = add_norm(x, attended, self.attention_gate, *self.prompt_norm, self.eps)
        x, h = add_norm(x, self._attend_to_prompt(h), None, *self.ffn_norm, self.eps)
        up, _, down = self.ffn
        fed = down(linear_gelu(h, up.weight, up.bias))
        return add_norm(x, fed, self.ffn_gate, *self.next_norm, self.eps)

    def _attend(
        self,
        h: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        new: LayerCache,
        ring: LayerCache,
        slot_valid: torch.Tensor,
        attention: RingAttention,
    ) -> torch.Tensor:
        layer = self.self_attn
        # Straight into the ring, so v is no part of the product that makes q and k.
        torch.addmm(layer.v.bias, h, layer.v.weight.t(), out=new.values.view(h.shape))
        q = h.new_empty(h.shape[0], *new.keys.shape[2:])
        weights = layer.norm_q.weight, layer.norm_k.weight
        projected = layer.queries_and_keys(h)
        q_means, k_means = norm_rope(*projected, *weights, *rope, self.eps, q, new.keys.flatten(0, 1))
        new.key_means.copy_(k_means.view_as(new.key_means))
        # The ring holds them by now.
        nothing = new.part(slice(0))
        return layer.o(attention.attend(q, q_means, nothing, ring, slot_valid).flatten(1))

    def _attend_to_prompt(self, h: torch.Tensor) -> torch.Tensor:
        layer = self.cross_attn
        q = F.rms_norm(layer.q(h), h.shape[-1:], layer.norm_q.weight, self.eps)
        q = q.unflatten(-1, (self.heads, -1)).transpose(0, 1)
        attended = F.scaled_dot_product_attention(q[None], self.cross_k[None], self.cross_v[None])
        return layer.o(attended[0].transpose(0, 1).flatten(1))


class FusedDiT(nn.Module):
    """One step of a `DiT`: same latents, but keys and values go into slots of the ring."""

    def __init__(self, dit: DiT, constants: DiTConstants) -> None:
        super().__init__()
        self.embed, self.head, self.eps = dit.embed, dit.head.head, dit.config.eps
        self.first_modulation = tuple(constants.blocks[0].modulation[:2])
        shift, scale = constants.head_modulation
        norms = [(1 + block.modulation[1], block.modulation[0]) for block in constants.blocks[1:]]
        self.blocks = nn.ModuleList(
            map(FusedBlock, dit.blocks, constants.blocks, [*norms, (1 + scale, shift)])
        )

    def forward(
        self,
        noise: torch.Tensor,
        lr_tokens: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        ring: list[LayerCache],
        slots: slice,
        slot_valid: torch.Tensor,
        attention: RingAttention,
    ) -> torch.Tensor:
        """Velocity [T, 16, h, w]. Arguments as in `DiT.forward`, and the step's T/2 `slots` of the ring.

        The slots count as valid: a layer writes them before it reads any.
        """
        grid = (noise.shape[2] // PATCH, noise.shape[3] // PATCH)
        x = to_windows(self.embed(to_patches(noise).to(lr_tokens.dtype)) + lr_tokens, grid)
        h = modulated_norm(x, *self.first_modulation, self.eps)
        for block, cache in zip(self.blocks, ring, strict=True):
            x, h = block(x, h, rope, cache.part(slots), cache, slot_valid, attention)
        return from_patches(from_windows(self.head(h), grid), grid)

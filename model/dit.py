"""The diffusion transformer (official `wan_video_dit.py`) as published: one step, velocity out.

Weights are loaded into it and training runs it; `running_dit.py` makes of it what runs and is exported.
Tokens are [tokens, dim] in window order throughout (see `windows.py`); there is no batch axis.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import LATENT_CHANNELS, PATCH, TIMESTEP, DiTConfig, NetworkConfig
from flashvsr_trt.model.attention import Attention, LayerCache
from flashvsr_trt.model.windows import from_windows, to_windows


class RMSNorm(nn.Module):
    """Over the last axis, in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class SelfAttention(nn.Module):
    """Parameters of a self-attention: projections with bias, q and k normalised over all heads."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)


class CrossAttention(SelfAttention):
    """The same parameters; keys and values come from the fixed prompt, as constants."""


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate adjacent pairs of [tokens, heads, head_dim]; cos and sin [tokens, head_dim/2] float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class BlockConstants:
    """What the fixed timestep and prompt make of one block.

    modulation: [6, dim], rows shift1, scale1, gate1, shift2, scale2, gate2.
    cross_k, cross_v: [heads, text_tokens, head_dim].
    """

    modulation: torch.Tensor
    cross_k: torch.Tensor
    cross_v: torch.Tensor


@dataclass(frozen=True)
class DiTConstants:
    """Constants of a loaded network: one entry per block, and the head's [2, dim] shift and scale."""

    blocks: tuple[BlockConstants, ...]
    head_modulation: torch.Tensor


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, modulated by the timestep."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.cross_attn = CrossAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))

    def forward(
        self,
        x: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        constants: BlockConstants,
        ring: LayerCache,
        slot_valid: torch.Tensor,
        attention: Attention,
    ) -> tuple[torch.Tensor, LayerCache]:
        """Tokens x [tokens, dim] -> the next x, and this step's own keys and values."""
        shift1, scale1, gate1, shift2, scale2, gate2 = constants.modulation
        h = modulated_norm(x, shift1, scale1, self.eps)
        attended, new = self._attend(h, rope, ring, slot_valid, attention)
        x = x + gate1 * attended
        x = x + self._attend_to_prompt(self.norm3(x), constants)
        h = modulated_norm(x, shift2, scale2, self.eps)
        return x + gate2 * self.ffn(h), new

    def _attend(
        self,
        h: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        ring: LayerCache,
        slot_valid: torch.Tensor,
        attention: Attention,
    ) -> tuple[torch.Tensor, LayerCache]:
        layer = self.self_attn
        q = apply_rope(self._split(layer.norm_q(layer.q(h))), *rope)
        k = apply_rope(self._split(layer.norm_k(layer.k(h))), *rope)
        v = self._split(layer.v(h))
        new = attention.cache(k, v, ring)
        return layer.o(attention(q, new, ring, slot_valid).flatten(1)), new

    def _attend_to_prompt(self, h: torch.Tensor, constants: BlockConstants) -> torch.Tensor:
        layer = self.cross_attn
        q = self._split(layer.norm_q(layer.q(h))).transpose(0, 1)
        attended = F.scaled_dot_product_attention(q[None], constants.cross_k[None], constants.cross_v[None])
        return layer.o(attended[0].transpose(0, 1).flatten(1))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1))


def modulated_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:
    """LayerNorm without affine, then * (1 + scale) + shift."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


class Head(nn.Module):
    """Modulated norm and the projection to latent patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, LATENT_CHANNELS * PATCH * PATCH)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        shift, scale = modulation
        return self.head(modulated_norm(x, shift, scale, self.eps))


class DiT(nn.Module):
    """Patch embedding, blocks and head, with the embeddings that make the constants."""

    def __init__(self, network: NetworkConfig) -> None:
        super().__init__()
        config = network.dit
        self.config = config
        # Holds the official 5-D weight; it is applied as a linear layer over unshuffled patches.
        self.patch_embedding = nn.Conv3d(
            LATENT_CHANNELS, config.dim, (1, PATCH, PATCH), stride=(1, PATCH, PATCH)
        )
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.dim, config.dim),
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, config.dim * 6))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)

    def constants(self, prompt: torch.Tensor) -> DiTConstants:
        """Fold timestep and prompt [1, text_tokens, text_dim], in float32, cast to the weights' dtype."""
        dtype = self.head.head.weight.dtype
        time = in_float32(self.time_embedding, sinusoid(TIMESTEP, self.config.freq_dim, prompt.device))
        block_time = in_float32(self.time_projection, time).view(6, -1)
        text = in_float32(self.text_embedding, prompt[0].float())
        blocks = []
        for block in self.blocks:
            layer = block.cross_attn
            # norm_k keeps the dtype of its input, so only its weight is narrower than float32.
            k = layer.norm_k(in_float32(layer.k, text))
            v = in_float32(layer.v, text)
            cross_k, cross_v = (
                x.unflatten(-1, (self.config.heads, -1)).transpose(0, 1).to(dtype).contiguous()
                for x in (k, v)
            )
            modulation = block.modulation[0].float() + block_time
            blocks.append(BlockConstants(modulation.to(dtype), cross_k, cross_v))
        head_modulation = self.head.modulation[0].float() + time
        return DiTConstants(tuple(blocks), head_modulation.to(dtype))

    def forward(
        self,
        noise: torch.Tensor,
        lr_tokens: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        constants: DiTConstants,
        ring: list[LayerCache],
        slot_valid: torch.Tensor,
        attention: Attention,
    ) -> tuple[torch.Tensor, list[LayerCache]]:
        """One denoising step.

        Args:
            noise: [T, 16, h, w], T latent frames (a multiple of 2).
            lr_tokens: [T*rows*columns, dim] of the projector, (frame, row, column) order.
            rope: cos and sin, each [T*rows*columns, head_dim/2] float32, window order.
            constants: from `constants`.
            ring: one cache of `slots` units per layer.
            slot_valid: [slots] bool.
            attention: from `self_attention_for`.

        Returns:
            velocity [T, 16, h, w], and one cache of T/2 units per layer.
        """
        grid = (noise.shape[2] // PATCH, noise.shape[3] // PATCH)
        x = to_windows(self.embed(to_patches(noise).to(lr_tokens.dtype)) + lr_tokens, grid)
        new = []
        for block, layer_constants, layer_ring in zip(self.blocks, constants.blocks, ring, strict=True):
            x, layer_new = block(x, rope, layer_constants, layer_ring, slot_valid, attention)
            new.append(layer_new)
        return from_patches(from_windows(self.head(x, constants.head_modulation), grid), grid), new

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """The patch embedding of `to_patches`: [tokens, 64] -> [tokens, dim]."""
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)


def to_patches(latent: torch.Tensor) -> torch.Tensor:
    """[T, 16, h, w] -> [T*rows*columns, 64], a patch's features in (channel, row, column) order."""
    return F.pixel_unshuffle(latent, PATCH).permute(0, 2, 3, 1).flatten(0, 2)


def from_patches(patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The head's [T*rows*columns, 64] -> [T, 16, h, w]; its features are (row, column, channel)."""
    split = patches.view(-1, *grid, PATCH * PATCH, LATENT_CHANNELS).permute(0, 4, 3, 1, 2)
    return F.pixel_shuffle(split.flatten(1, 2), PATCH)


def in_float32(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run a module with float32 copies of its parameters."""
    wide = {name: parameter.float() for name, parameter in module.named_parameters()}
    return torch.func.functional_call(module, wide, (x.float(),))


def sinusoid(timestep: float, dim: int, device: torch.device) -> torch.Tensor:
    """[dim] float32: cosines then sines of the timestep, angles in float64."""
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64, device=device) / (dim // 2))
    angles = timestep * frequencies
    return torch.cat([angles.cos(), angles.sin()]).float()

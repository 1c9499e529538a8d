"""The diffusion transformer's parameters as published (official `wan_video_dit.py`), and its constants.

Weights are loaded into it; `running_dit.py` makes of it the form that runs and is exported.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import LATENT_CHANNELS, PATCH, TIMESTEP, DiTConfig, NetworkConfig


class SelfAttention(nn.Module):
    """Parameters of a self-attention: projections with bias, q and k normalised over all heads."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(config.dim, config.eps) for _ in range(2))


class CrossAttention(SelfAttention):
    """The same parameters; keys and values come from the fixed prompt, as constants."""


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
    """Parameters of a block: self-attention, cross-attention and feed-forward, modulated by the timestep."""

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


class Head(nn.Module):
    """Parameters of the modulated norm and the projection to latent patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, LATENT_CHANNELS * PATCH * PATCH)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))


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
            k = in_float32(layer.norm_k, in_float32(layer.k, text))
            v = in_float32(layer.v, text)
            cross_k, cross_v = (
                x.unflatten(-1, (self.config.heads, -1)).transpose(0, 1).to(dtype).contiguous()
                for x in (k, v)
            )
            modulation = block.modulation[0].float() + block_time
            blocks.append(BlockConstants(modulation.to(dtype), cross_k, cross_v))
        head_modulation = self.head.modulation[0].float() + time
        return DiTConstants(tuple(blocks), head_modulation.to(dtype))


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

"""The networks as published, layer by layer: what has gradients, and is held to golden vectors.

`model/` has their parameters under the official names, and one form of each that runs. Tests hold that form,
and this one, to the same vectors.
"""

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import PATCH, TOKEN_STRIDE, WINDOW_TOKENS
from flashvsr_trt.config.signatures import PROJECTOR_TAIL
from flashvsr_trt.kernels.select_blocks import window_means
from flashvsr_trt.model.attention import Attention, LayerCache, StepCache
from flashvsr_trt.model.decoder import Decoder, MemBlock, condition_cells
from flashvsr_trt.model.dit import Block, BlockConstants, DiT, DiTConstants, from_patches, to_patches
from flashvsr_trt.model.projector import ChannelNorm, Projector
from flashvsr_trt.model.windows import from_windows, to_windows


class PublishedProjector(Projector):
    """`Projector` that runs, with gradients."""

    def forward(
        self, video: torch.Tensor, first: torch.Tensor, pixel_tail: torch.Tensor, hidden_tail: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`FusedProjector.forward` of video [T, 3, tH, tW] in [-1, 1]."""
        pixels = F.pixel_unshuffle(video, TOKEN_STRIDE)
        pixel_tail = torch.where(first, pixels[:1].expand_as(pixel_tail), pixel_tail)
        hidden = F.silu(channel_norm(self.norm1, causal_conv(self.conv1, pixel_tail, pixels)))
        hidden_tail = torch.where(first, hidden[:1].expand_as(hidden_tail), hidden_tail)
        features = F.silu(channel_norm(self.norm2, causal_conv(self.conv2, hidden_tail, hidden)))
        tokens = self.linear_layers[0](features.permute(0, 2, 3, 1).flatten(0, 2))
        return tokens, pixels[-PROJECTOR_TAIL:], hidden[-PROJECTOR_TAIL:]


def causal_conv(conv: nn.Conv3d, tail: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A (4,3,3) convolution with stride (2,1,1) over [tail | x] as one 2-D convolution.

    The four frames of each output are stacked in channels: the same sums, without the slow 3-D kernels.

    Args:
        conv: holds the weight [out, in, 4, 3, 3] and bias.
        tail: [2, in, h, w], the frames before `x`.
        x: [T, in, h, w], T even.

    Returns:
        [T/2, out, h, w].
    """
    frames = F.pad(torch.cat([tail, x]), (1,) * 4, mode="replicate")
    count, channels, height, width = frames.shape
    pairs = frames.view(count // 2, 2, channels, height, width)
    quads = torch.cat([pairs[:-1], pairs[1:]], dim=1).transpose(1, 2)
    stacked = quads.reshape(count // 2 - 1, channels * 4, height, width)
    return F.conv2d(stacked, conv.weight.flatten(1, 2), conv.bias)


def channel_norm(norm: ChannelNorm, x: torch.Tensor) -> torch.Tensor:
    """x / max(||x||, 1e-12) * sqrt(C) * gamma over the channels of [T, C, h, w] (official `RMS_norm`).

    In float32: fp16 squares overflow, and sqrt(C) is no number of bfloat16.
    """
    normal = F.normalize(x.float(), dim=1) * x.shape[1] ** 0.5
    return (normal * norm.gamma.squeeze(-1).float()).to(x.dtype)


class PublishedDiT(DiT):
    """`DiT` that runs, with gradients."""

    def forward(
        self,
        noise: torch.Tensor,
        lr_tokens: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        constants: DiTConstants,
        ring: list[LayerCache] | list[None],
        slot_valid: torch.Tensor,
        attention: Attention,
    ) -> tuple[torch.Tensor, list[LayerCache]]:
        """One denoising step.

        Args:
            noise: [T, 16, h, w], T latent frames (a multiple of 2).
            lr_tokens: [T*rows*columns, dim] of the projector, (frame, row, column) order.
            rope: cos and sin, each [T*rows*columns, head_dim/2] float32, window order.
            constants: from `constants`.
            ring: one cache of `slots` units per layer; None per layer for whole clips, which need none.
            slot_valid: [slots] bool.
            attention: from `self_attention_for`.

        Returns:
            velocity [T, 16, h, w], and one cache of T/2 units per layer.
        """
        grid = (noise.shape[2] // PATCH, noise.shape[3] // PATCH)
        embedding = self.patch_embedding
        patches = to_patches(noise).to(lr_tokens.dtype)
        x = F.linear(patches, embedding.weight.flatten(1), embedding.bias) + lr_tokens
        x, new = to_windows(x, grid), []
        for block, of_block, layer_ring in zip(self.blocks, constants.blocks, ring, strict=True):
            x, layer_new = run_block(block, x, rope, of_block, layer_ring, slot_valid, attention)
            new.append(layer_new)
        shift, scale = constants.head_modulation
        x = self.head.head(modulated_norm(x, shift, scale, self.head.eps))
        return from_patches(from_windows(x, grid), grid), new


def run_block(
    block: Block,
    x: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor],
    constants: BlockConstants,
    ring: LayerCache | None,
    slot_valid: torch.Tensor,
    attention: Attention,
) -> tuple[torch.Tensor, LayerCache]:
    """Tokens x [tokens, dim] -> the next x, and this step's own keys and values."""

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (block.heads, -1))

    shift1, scale1, gate1, shift2, scale2, gate2 = constants.modulation
    layer = block.self_attn
    h = modulated_norm(x, shift1, scale1, block.eps)
    q = apply_rope(split(layer.norm_q(layer.q(h))), *rope)
    k = apply_rope(split(layer.norm_k(layer.k(h))), *rope)
    new = kept(k, split(layer.v(h)), ring)
    attended = attention.attend(q, window_means(q, WINDOW_TOKENS), StepCache(new, ring, new), slot_valid)
    x = x + gate1 * layer.o(attended.flatten(1))

    layer = block.cross_attn
    q = split(layer.norm_q(layer.q(block.norm3(x)))).transpose(0, 1)
    attended = F.scaled_dot_product_attention(q[None], constants.cross_k[None], constants.cross_v[None])
    x = x + layer.o(attended[0].transpose(0, 1).flatten(1))
    return x + gate2 * block.ffn(modulated_norm(x, shift2, scale2, block.eps)), new


def kept(k: torch.Tensor, v: torch.Tensor, ring: LayerCache | None) -> LayerCache:
    """Keys (after RoPE) and values [units*tokens, heads, head_dim] by units as in a ring, if there is one."""
    means = window_means(k, WINDOW_TOKENS)
    if ring is None:
        return LayerCache(k, v, means)
    units = (-1, *ring.keys.shape[1:])
    return LayerCache(k.view(units), v.view(units), means.view(-1, *ring.key_means.shape[1:]))


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate adjacent pairs of [tokens, heads, head_dim]; cos and sin [tokens, head_dim/2] float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def modulated_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor:
    """LayerNorm without affine, then * (1 + scale) + shift."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


class PublishedDecoder(Decoder):
    """`Decoder` that runs, layer by layer."""

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, memory: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`FusedDecoder.forward` of one process."""
        x = torch.cat([condition_cells(condition), latent], dim=1)
        remaining = list(memory)
        next_memory = []
        for layer in self.decoder:
            if isinstance(layer, MemBlock):
                x, carried = layer(x, remaining.pop(0))
                next_memory.append(carried)
            else:
                x = layer(x)
        return x, next_memory

"""The DiT that runs: its blocks through fused operators, and constants of timestep and prompt folded in.

torch runs it, export traces it and the ranks of a job run it; the published `dit.DiT` is its specification.
An operator chooses its kernel or its reference by the device, once; a traced graph holds the references.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import PATCH
from flashvsr_trt.kernels.add_norm import add_norm
from flashvsr_trt.kernels.block_sparse_attention_fp8 import AttentionScales, store_values
from flashvsr_trt.kernels.fp8 import E4M3, Quantised, quantise_rows
from flashvsr_trt.kernels.linear_gelu import linear_gelu
from flashvsr_trt.kernels.norm_rope import norm_rope
from flashvsr_trt.model.attention import Attention, E4m3Cache, Fp8Cache, StepCache
from flashvsr_trt.model.dit import (
    Block,
    BlockConstants,
    DiT,
    DiTConstants,
    SelfAttention,
    from_patches,
    to_patches,
)
from flashvsr_trt.model.fp8_cache import keep_units, wide_units
from flashvsr_trt.model.fp8_linear import Fp8Linear, Fp8LinearGelu, attention_scales
from flashvsr_trt.model.step_tokens import StepTokens

NormParameters = tuple[torch.Tensor, torch.Tensor]
"""Scale and shift of a LayerNorm, [dim] each; for a modulated one, 1 + scale and shift."""


Operand = torch.Tensor | Quantised
"""What a linear layer takes, [tokens, in]: quantised where its product is taken in FP8."""

PRODUCTS = ("self_attn.qkv", "self_attn.o", "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2")
"""A block's products by the names of their layers; q, k and v share their operand."""

ATTENTION = "attention"
"""The name of what all layers' self-attention multiplies; one K/V ring's layers are of one dtype."""


@dataclass(frozen=True)
class Step:
    """What all layers of one denoising step share.

    rope: cos and sin, each [tokens, head_dim/2] float32 in window order, of the tokens in `tokens`.
    slot_valid: [slots] bool; None where every slot of the caches' rings is to be seen.
    attention: from `self_attention_for`.
    tokens: which of the step's tokens and heads are worked on here.
    """

    rope: tuple[torch.Tensor, torch.Tensor]
    slot_valid: torch.Tensor | None
    attention: Attention
    tokens: StepTokens


def linear_into(x: Operand, layer: nn.Linear | Fp8Linear, out: torch.Tensor) -> None:
    """The layer of x [tokens, in], written into out [tokens, out]."""
    if isinstance(layer, Fp8Linear):
        layer(x, out)
    elif torch.compiler.is_compiling():
        # A graph has no place to write to, and the transposed weight would be a node of its own.
        out.copy_(layer(x))
    else:
        torch.addmm(layer.bias, x, layer.weight.t(), out=out)


def feed_forward(up: nn.Linear | Fp8Linear, down: nn.Linear | Fp8Linear, h: Operand) -> torch.Tensor:
    """down(GELU(up(h))), h [tokens, dim] -> the same shape; GELU writes what `down` reads."""
    if not isinstance(up, Fp8Linear):
        return down(linear_gelu(h, up.weight, up.bias))
    if isinstance(down, Fp8Linear) and isinstance(up, Fp8LinearGelu) and isinstance(h, Quantised):
        return down(up.gelu(h))
    return down(F.gelu(up(h), approximate="tanh"))


def product_names(layers: int) -> list[str]:
    """What may be in FP8: attention, and the products of all blocks, in order."""
    return [ATTENTION, *(f"blocks.{number}.{product}" for number in range(layers) for product in PRODUCTS)]


class JoinedSelfAttention(nn.Module):
    """`SelfAttention` whose queries and keys are one product: h is read once, and the product is wider.

    The weights of q and k become views of the joint one, so that there is no second copy.
    """

    def __init__(self, separate: SelfAttention) -> None:
        super().__init__()
        self.v, self.o = separate.v, separate.o
        self.norm_q, self.norm_k = separate.norm_q, separate.norm_k
        self.qk = nn.Linear(separate.q.in_features, 2 * separate.q.out_features, device="meta")
        for name in ("weight", "bias"):
            joined = torch.cat([getattr(separate.q, name), getattr(separate.k, name)]).detach()
            for layer, part in zip((separate.q, separate.k), joined.chunk(2), strict=True):
                setattr(layer, name, nn.Parameter(part, requires_grad=False))
            setattr(self.qk, name, nn.Parameter(joined, requires_grad=False))


class PromptAttention(nn.Module):
    """Cross-attention to the prompt: its keys and values [heads, text_tokens, head_dim] are constants."""

    def __init__(self, block: Block, constants: BlockConstants) -> None:
        super().__init__()
        layer = block.cross_attn
        self.q, self.o, self.norm_q, self.eps = layer.q, layer.o, layer.norm_q, block.eps
        self.register_buffer("keys", constants.cross_k)
        self.register_buffer("values", constants.cross_v)
        self.register_buffer("centred", None, persistent=False)

    def quantise_output(self) -> None:
        """Take the product after attention in FP8 from now on.

        The values' mean is what all tokens get alike. It is in the product's bias then, and is not rounded.
        """
        means = self.values.float().mean(dim=1)
        self.o = Fp8Linear(self.o, means.flatten())
        self.centred = (self.values.float() - means[:, None]).to(self.values.dtype)

    def forward(self, h: Operand) -> torch.Tensor:
        """[tokens, dim] -> the same shape."""
        q = self.q(h)
        q = F.rms_norm(q, q.shape[-1:], self.norm_q.weight, self.eps)
        q = q.unflatten(-1, (self.keys.shape[0], -1)).transpose(0, 1)
        values = self.centred if isinstance(self.o, Fp8Linear) else self.values
        attended = F.scaled_dot_product_attention(q[None], self.keys[None], values[None])
        return self.o(attended[0].transpose(0, 1).flatten(1))


class RunningBlock(nn.Module):
    """A block between two norms: it takes its first norm's result and gives the next one's."""

    def __init__(self, block: Block, constants: BlockConstants, next_norm: NormParameters) -> None:
        super().__init__()
        self.eps = block.eps
        self.self_attn = JoinedSelfAttention(block.self_attn)
        self.cross_attn = PromptAttention(block, constants)
        self.norm3, self.ffn = block.norm3, block.ffn
        _, _, attention_gate, shift2, scale2, ffn_gate = constants.modulation.unbind()
        folded = {"attention_gate": attention_gate, "ffn_scale": 1 + scale2, "ffn_shift": shift2}
        folded |= {"ffn_gate": ffn_gate, "next_scale": next_norm[0], "next_shift": next_norm[1]}
        for name, vector in folded.items():
            self.register_buffer(name, vector.clone())
        self.next_quantised = False
        self.scales: AttentionScales | None = None

    def quantise(self, product: str) -> None:
        """Take one of PRODUCTS in FP8 from now on."""
        if product == "ffn.0":
            self.ffn[0] = Fp8LinearGelu(self.ffn[0], self.ffn_scale, self.ffn_shift)
        elif product == "cross_attn.o":
            self.cross_attn.quantise_output()
        else:
            for path in ("self_attn.qk", "self_attn.v") if product == "self_attn.qkv" else (product,):
                self.set_submodule(path, Fp8Linear(self.get_submodule(path)))

    def forward(
        self, x: torch.Tensor, h: Operand, cache: StepCache, step: Step
    ) -> tuple[torch.Tensor, Operand]:
        """Tokens x [tokens, dim] and their norm h -> the same after the block; `cache.new` is written."""
        up, _, down = self.ffn
        attended = self._attend(x, h, cache, step)
        norm, quantised = (self.norm3.weight, self.norm3.bias), isinstance(self.cross_attn.q, Fp8Linear)
        x, h = add_norm(x, attended, self.attention_gate, *norm, self.eps, quantised)
        norm, quantised = (self.ffn_scale, self.ffn_shift), isinstance(up, Fp8Linear)
        x, h = add_norm(x, self.cross_attn(h), None, *norm, self.eps, quantised)
        fed, norm = feed_forward(up, down, h), (self.next_scale, self.next_shift)
        return add_norm(x, fed, self.ffn_gate, *norm, self.eps, self.next_quantised)

    def _attend(self, x: torch.Tensor, h: Operand, cache: StepCache, step: Step) -> torch.Tensor:
        layer, tokens = self.self_attn, step.tokens
        # A ring in e4m3 asks for attention in FP8.
        scales = self.scales if isinstance(cache.new, E4m3Cache) else None
        if scales and isinstance(layer.o, Fp8Linear):
            scales = scales._replace(dtype=E4M3)
        seen = cache
        if isinstance(cache.new, Fp8Cache):
            # Attention reads the step's own units as they are made.
            seen = replace(cache, new=wide_units(cache.new, x.dtype))
        q, k, v = tokens.projections(x, seen.new)
        # Straight to where it is kept, so v is no part of the product that makes q and k.
        made = torch.empty_like(x) if scales else v.view(x.shape)
        linear_into(h, layer.v, made)
        if isinstance(cache.ring, E4m3Cache) and isinstance(cache.new, E4m3Cache) and scales:
            # Only slots that a step sees or writes are sure to be there: so each has the mean.
            values, means = made.view(v.shape), cache.new.value_means
            first = cache.before is None
            means.copy_(
                values.mean(dim=0, dtype=torch.float32) if first else cache.ring.value_means[cache.before]
            )
            store_values(values, means[0], scales.v, v)
        weights = layer.norm_q.weight, layer.norm_k.weight
        parts = layer.qk(h).chunk(2, dim=-1)
        means = norm_rope(*parts, *weights, *step.rope, self.eps, q, k, *([scales[:2]] if scales else []))
        q, q_means = tokens.to_heads((q, k, v), means, seen.new)
        # A rank without heads has tokens all the same.
        attended = step.attention.attend(q, q_means, seen, step.slot_valid, scales) if q.shape[1] else q
        if isinstance(cache.new, Fp8Cache):
            keep_units(seen.new, cache.new)
        attended = tokens.to_tokens(attended).flatten(1)
        if attended.dtype == E4M3:
            attended = Quantised.alike(attended, scales.v)
        return layer.o(attended)


class RunningDiT(nn.Module):
    """One step of a `DiT` with its `constants`: same velocity, but keys and values go where the caller says.

    Shares the weights of `dit`, whose q and k become views.
    """

    def __init__(self, dit: DiT, constants: DiTConstants) -> None:
        super().__init__()
        self.patch_embedding, self.head, self.eps = dit.patch_embedding, dit.head.head, dit.config.eps
        shift, scale = constants.blocks[0].modulation[:2]
        self.register_buffer("first_shift", shift.clone())
        self.register_buffer("first_scale", 1 + scale)
        shift, scale = constants.head_modulation
        norms = [(1 + block.modulation[1], block.modulation[0]) for block in constants.blocks[1:]]
        self.blocks = nn.ModuleList(
            map(RunningBlock, dit.blocks, constants.blocks, [*norms, (1 + scale, shift)])
        )

    def quantise(self, chosen: Callable[[str], bool]) -> None:
        """Take in FP8 from now on what `product_names` calls by a name of which `chosen` is true."""
        if chosen(ATTENTION):
            norm = self.first_scale, self.first_shift
            for block in self.blocks:
                layer = block.self_attn
                weights = layer.norm_q.weight, layer.norm_k.weight
                block.scales = attention_scales(*weights, layer.v, *norm)
                norm = block.next_scale, block.next_shift
        for name in product_names(len(self.blocks))[1:]:
            _, number, product = name.split(".", 2)
            if chosen(name):
                self.blocks[int(number)].quantise(product)
        for block, following in zip(self.blocks, self.blocks[1:], strict=False):
            block.next_quantised = isinstance(following.self_attn.qk, Fp8Linear)

    def restore(self, linears: Mapping[str, nn.Module]) -> None:
        """Undo `quantise`: `linears` are the linear layers by name, as they were."""
        for name, layer in linears.items():
            self.set_submodule(name, layer)
        for block in self.blocks:
            block.scales, block.next_quantised = None, False

    @property
    def fp8_attention(self) -> bool:
        """Whether its K/V ring may be in e4m3."""
        return self.blocks[0].scales is not None

    def forward(
        self,
        noise: torch.Tensor,
        lr_tokens: torch.Tensor,
        caches: Iterable[StepCache],
        step: Step,
    ) -> torch.Tensor:
        """One denoising step; each layer writes `new` of its cache before it reads anything.

        Args:
            noise: [T, 16, h, w], T latent frames (a multiple of 2); of a rank, its rows.
            lr_tokens: [T*rows*columns, dim] of the projector, (frame, row, column) order; the same rows.
            caches: one a layer, each asked for when its layer runs.

        Returns:
            velocity [T, 16, h, w], the rows of `noise`.
        """
        grid = (noise.shape[2] // PATCH, noise.shape[3] // PATCH)
        embedding = self.patch_embedding
        patches = to_patches(noise).to(lr_tokens.dtype)
        x = F.linear(patches, embedding.weight.flatten(1), embedding.bias) + lr_tokens
        x = step.tokens.to_windows(x)
        h = F.layer_norm(x, x.shape[-1:], eps=self.eps) * self.first_scale + self.first_shift
        if isinstance(self.blocks[0].self_attn.qk, Fp8Linear):
            h = quantise_rows(h)
        for block, cache in zip(self.blocks, caches, strict=True):
            x, h = block(x, h, cache, step)
        return from_patches(step.tokens.to_rows(self.head(h)), grid)

"""Inputs of the kernels at real sizes, random and reproducible, on a CUDA device."""

from dataclasses import dataclass, replace

import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import WINDOW_TOKENS, find_preset
from flashvsr_trt.kernels.block_sparse_attention_fp8 import AttentionScales, store_values
from flashvsr_trt.kernels.fp8 import E4M3, to_e4m3
from flashvsr_trt.kernels.select_blocks import block_probability, local_neighbourhood, window_means

SCENES = {
    "384x384": (384, 384),
    "672x384": (384, 672),
    "384x672": (672, 384),
    "640x480": (480, 640),
    "640x384": (384, 640),
    "768x416": (416, 768),
    "704x384": (384, 704),
    "1280x704": (704, 1280),
}
"""LR frames, width x height as people say it: height and width. All are upscaled 2x."""


@dataclass(frozen=True)
class AttentionProblem:
    """One layer's self-attention in the steady state: three of four ring slots are valid."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    ring_k: torch.Tensor
    ring_v: torch.Tensor
    slot_valid: torch.Tensor
    probability: torch.Tensor
    top_k: int

    @property
    def windows(self) -> int:
        """Query windows."""
        return self.q.shape[0] // WINDOW_TOKENS


def attention_problem(
    height: int, width: int, head_dim: int = 128, contrast: float = 1.0, dtype: torch.dtype = torch.bfloat16
) -> AttentionProblem:
    """Random tokens of an LR frame upscaled 2x, with blocks chosen by the default preset's rule.

    `contrast` is the deviation of the windows' means: the more, the more the rows' block counts differ.
    """
    preset = find_preset("sparse-2.0")
    geometry = Geometry(height, width, scale=2)
    windows, slots, heads = geometry.unit_windows, preset.attention.ring_slots, preset.network.dit.heads
    generator = torch.Generator("cuda").manual_seed(0)

    def tokens(count: int) -> torch.Tensor:
        shape = (count, WINDOW_TOKENS, heads, head_dim)
        noise = torch.randn(shape, device="cuda", generator=generator)
        means = torch.randn((count, 1, *shape[2:]), device="cuda", generator=generator)
        return (noise + contrast * means).flatten(0, 1).to(dtype)

    q, k, v = (tokens(windows) for _ in range(3))
    ring_k, ring_v = (tokens(slots * windows).unflatten(0, (slots, -1)) for _ in range(2))
    slot_valid = torch.arange(slots, device="cuda") < preset.attention.past_units
    neighbourhood = local_neighbourhood(*geometry.windows, preset.attention.local_range).cuda()
    k_means = torch.cat([window_means(ring_k.flatten(0, 1), WINDOW_TOKENS), window_means(k, WINDOW_TOKENS)])
    probability = block_probability(window_means(q, WINDOW_TOKENS), k_means, slot_valid, neighbourhood)
    top_k = geometry.top_k(preset.attention)
    return AttentionProblem(q, k, v, ring_k, ring_v, slot_valid, probability, top_k)


def in_ring(problem: AttentionProblem) -> AttentionProblem:
    """The same with the step's own keys and values in the slot that is not valid: the torch backend's way."""
    slots = len(problem.slot_valid)
    own = int((~problem.slot_valid).nonzero())
    ring_k, ring_v = problem.ring_k.clone(), problem.ring_v.clone()
    ring_k[own], ring_v[own] = problem.k, problem.v
    units = problem.probability.unflatten(-1, (slots + 1, -1)).clone()
    units[..., own, :] = units[..., slots, :]
    return replace(
        problem,
        k=problem.k[:0],
        v=problem.v[:0],
        ring_k=ring_k,
        ring_v=ring_v,
        slot_valid=torch.ones_like(problem.slot_valid),
        probability=units[..., :slots, :].flatten(-2).contiguous(),
    )


def fp8_operands(
    problem: AttentionProblem, scales: AttentionScales
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of a problem in its ring in e4m3, and the values' means."""
    ring_v, means = torch.empty_like(problem.ring_v, dtype=E4M3), problem.ring_v.float().mean(dim=(0, 1))
    store_values(problem.ring_v.flatten(0, 1), means, scales.v, ring_v)
    return to_e4m3(problem.q / scales.q), to_e4m3(problem.ring_k / scales.k), ring_v, means

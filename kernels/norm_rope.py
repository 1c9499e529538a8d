"""q and k of self-attention after their projections: RMSNorm, RoPE and the means of each window, in one step.

`norm_rope_reference` is the specification (official `wan_video_dit.py`: `norm_q`, `norm_k`, `rope_apply`).
"""

import torch

from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.catalogue import BLOCK
from flashvsr_trt.kernels.fp8 import E4M3, to_e4m3
from flashvsr_trt.kernels.select_blocks import window_means


def norm_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    eps: float,
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    scales: tuple[float, float] = (1.0, 1.0),
) -> tuple[torch.Tensor, torch.Tensor]:
    """`norm_rope_reference` of q and of k; returns the window means of both. By the kernel on a GPU."""
    setting = kernel_setting("norm_rope", q)
    if setting is None:
        q_means = norm_rope_reference(q, q_weight, cos, sin, eps, q_out, scales[0])
        return q_means, norm_rope_reference(k, k_weight, cos, sin, eps, k_out, scales[1])
    from flashvsr_trt.kernels.norm_rope_triton import launch_norm_rope

    return launch_norm_rope(q, k, q_weight, k_weight, cos, sin, eps, q_out, k_out, scales, setting)


def norm_rope_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    scale: float = 1.0,
) -> torch.Tensor:
    """RMSNorm over all heads, rotation of adjacent pairs, and the mean of what was written.

    Args:
        x: [tokens, heads*head_dim] in window order, any token stride.
        weight: [heads*head_dim].
        cos, sin: [tokens, head_dim/2] float32.
        out: [tokens, heads, head_dim], written; a ring slot will do. Rounded once, from float32.
        scale: of an e4m3 `out`, whose numbers times it are the result; it is rounded from the dtype of x.

    Returns:
        [windows, heads, head_dim] float32: the means over each window's 128 tokens, in x's dtype or `out`'s.
    """
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float()
    even, odd = wide.view(*out.shape[:2], out.shape[2] // 2, 2).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    if out.dtype is not E4M3:
        out.copy_(rotated.flatten(-2))
        return window_means(out, BLOCK)
    # Blocks are selected as without FP8: by means of what there would be.
    kept = rotated.flatten(-2).to(x.dtype)
    out.copy_(to_e4m3(kept.float() / scale))
    return window_means(kept, BLOCK)

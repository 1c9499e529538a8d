"""q and k of self-attention after their projections: RMSNorm, RoPE and the means of each window, in one step.

`norm_rope_reference` is the specification (official `wan_video_dit.py`: `norm_q`, `norm_k`, `rope_apply`).
The kernel takes q and k together: each is read once and written once.
"""

import torch

from flashvsr_trt.kernels.calls import kernel_setting
from flashvsr_trt.kernels.catalogue import BLOCK
from flashvsr_trt.kernels.fp8 import E4M3, to_e4m3
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.select_blocks import window_means
from flashvsr_trt.kernels.tuning import Setting


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


@triton.jit
def _norm_rope_window(
    tensors,
    cos,
    sin,
    eps,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    QUANTISED: tl.constexpr,
    TOKENS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One part of one window of one of q and k, TOKENS tokens at a time."""
    x, x_stride, weight, out, out_stride, means, inverse = tensors
    window = tl.program_id(0)
    part = tl.program_id(2)
    # Means are of what would be kept without FP8.
    KEPT: tl.constexpr = x.dtype.element_ty if QUANTISED else out.dtype.element_ty
    channel = tl.arange(0, PADDED)
    pair = tl.arange(0, PADDED // 2)
    exists = channel < WIDTH
    factor = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
    even_sum = tl.zeros([PADDED // 2], tl.float32)
    odd_sum = tl.zeros([PADDED // 2], tl.float32)
    first = window * BLOCK + part * (BLOCK // PARTS)
    end = first + BLOCK // PARTS
    token = (first + tl.arange(0, TOKENS)).to(tl.int64)
    following = tl.load(x + token[:, None] * x_stride + channel[None, :], mask=exists[None, :], other=0.0)
    for _ in range(0, BLOCK // PARTS, TOKENS):
        wide = following.to(tl.float32)
        # The next tokens are on their way while these are turned: each step would wait for its own.
        ahead = token + TOKENS
        following = tl.load(
            x + ahead[:, None] * x_stride + channel[None, :],
            mask=exists[None, :] & (ahead < end)[:, None],
            other=0.0,
        )
        angle = token[:, None] * (HEAD_DIM // 2) + (pair % (HEAD_DIM // 2))[None, :]
        c = tl.load(cos + angle)
        s = tl.load(sin + angle)
        scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / WIDTH + eps)
        wide = wide * scale[:, None] * factor[None, :]
        even, odd = tl.split(tl.reshape(wide, [TOKENS, PADDED // 2, 2]))
        even_out = (even * c - odd * s).to(KEPT)
        odd_out = (even * s + odd * c).to(KEPT)
        rotated = tl.reshape(tl.join(even_out, odd_out), [TOKENS, PADDED])
        if QUANTISED:
            rotated = (rotated.to(tl.float32) * inverse).to(out.dtype.element_ty)
        tl.store(out + token[:, None] * out_stride + channel[None, :], rotated, mask=exists[None, :])
        even_sum += tl.sum(even_out.to(tl.float32), axis=0)
        odd_sum += tl.sum(odd_out.to(tl.float32), axis=0)
        token = ahead
    mean = tl.reshape(tl.join(even_sum, odd_sum), [PADDED]) / BLOCK
    tl.store(means + (part * tl.num_programs(0) + window) * WIDTH + channel, mean, mask=exists)


@triton.jit
def norm_rope_kernel(
    q,
    k,
    q_stride,
    k_stride,
    q_weight,
    k_weight,
    cos,
    sin,
    q_out,
    k_out,
    q_out_stride,
    k_out_stride,
    q_means,
    k_means,
    eps,
    q_inverse,
    k_inverse,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    QUANTISED: tl.constexpr,
    TOKENS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """A program of axis 1 takes q or k; the PARTS of axis 2 divide a window, and sum its mean apart."""
    if tl.program_id(1) == 0:
        of_q = q, q_stride, q_weight, q_out, q_out_stride, q_means, q_inverse
        _norm_rope_window(of_q, cos, sin, eps, WIDTH, HEAD_DIM, PADDED, BLOCK, QUANTISED, TOKENS, PARTS)
    else:
        of_k = k, k_stride, k_weight, k_out, k_out_stride, k_means, k_inverse
        _norm_rope_window(of_k, cos, sin, eps, WIDTH, HEAD_DIM, PADDED, BLOCK, QUANTISED, TOKENS, PARTS)


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
    setting: Setting | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`norm_rope_reference` of q and of k; returns the window means of both.

    By the kernel where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernel is to read channels that are not adjacent, or tokens that are no whole windows.
    """
    setting = setting or kernel_setting("norm_rope", q)
    if setting is None:
        q_means = norm_rope_reference(q, q_weight, cos, sin, eps, q_out, scales[0])
        return q_means, norm_rope_reference(k, k_weight, cos, sin, eps, k_out, scales[1])
    tokens, heads, head_dim = q_out.shape
    width = heads * head_dim
    for name, tensor in {"q": q, "k": k, "q_out": q_out, "k_out": k_out}.items():
        inner = tensor.stride()[1:]
        if inner != ((1,) if tensor.ndim == 2 else (head_dim, 1)):
            raise ValueError(f"{name}'s channels must be adjacent: strides {tensor.stride()}")
    if q.shape != (tokens, width) or k.shape != q.shape or k_out.shape != q_out.shape:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} must both be [{tokens}, {width}]")
    if tokens % BLOCK:
        raise ValueError(f"{tokens} tokens are no whole windows of {BLOCK}")
    if not (
        cos.is_contiguous() and sin.is_contiguous() and cos.shape == sin.shape == (tokens, head_dim // 2)
    ):
        raise ValueError(f"cos and sin must be contiguous [{tokens}, {head_dim // 2}]")
    windows = tokens // BLOCK
    parts = setting.constants["PARTS"]
    means = q.new_empty((2, parts, windows, heads, head_dim), dtype=torch.float32)
    norm_rope_kernel[(windows, 2, parts)](
        q,
        k,
        q.stride(0),
        k.stride(0),
        q_weight,
        k_weight,
        cos,
        sin,
        q_out,
        k_out,
        q_out.stride(0),
        k_out.stride(0),
        means[0],
        means[1],
        eps,
        1 / scales[0],
        1 / scales[1],
        WIDTH=width,
        HEAD_DIM=head_dim,
        PADDED=triton.next_power_of_2(width),
        BLOCK=BLOCK,
        QUANTISED=q_out.dtype == E4M3 or scales != (1.0, 1.0),
        **setting.constants,
        num_warps=setting.num_warps,
    )
    # Two sums, for an operator may not return two views of one tensor.
    return means[0].sum(dim=0), means[1].sum(dim=0)

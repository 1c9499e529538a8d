"""The kernel form of `norm_rope_reference`, for q and k together: each is read once and written once."""

import torch
import triton
import triton.language as tl

from flashvsr_trt.kernels.catalogue import BLOCK
from flashvsr_trt.kernels.tuning import Setting


@triton.jit
def _norm_rope_window(
    x,
    x_stride,
    weight,
    cos,
    sin,
    out,
    out_stride,
    means,
    eps,
    inverse,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    QUANTISED: tl.constexpr,
    TOKENS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One part of one window of one of q and k, TOKENS tokens at a time."""
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
def norm_rope(
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
        _norm_rope_window(
            q, q_stride, q_weight, cos, sin, q_out, q_out_stride, q_means, eps,
            q_inverse, WIDTH, HEAD_DIM, PADDED, BLOCK, QUANTISED, TOKENS, PARTS,
        )  # fmt: skip
    else:
        _norm_rope_window(
            k, k_stride, k_weight, cos, sin, k_out, k_out_stride, k_means, eps,
            k_inverse, WIDTH, HEAD_DIM, PADDED, BLOCK, QUANTISED, TOKENS, PARTS,
        )  # fmt: skip


def launch_norm_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    eps: float,
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    scales: tuple[float, float],
    setting: Setting,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`norm_rope_reference` of q and of k; returns the window means of both.

    Raises:
        ValueError: channels that are not adjacent, or tokens that are no whole windows.
    """
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
    norm_rope[(windows, 2, parts)](
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
        QUANTISED=q_out.dtype == torch.float8_e4m3fn or scales != (1.0, 1.0),
        **setting.constants,
        num_warps=setting.num_warps,
    )
    # Two sums, for an operator may not return two views of one tensor.
    return means[0].sum(dim=0), means[1].sum(dim=0)

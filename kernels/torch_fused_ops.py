"""What surrounds attention, fused, as torch operators: kernels on CUDA tensors, twins on CPU tensors."""

import torch

from flashvsr_trt.kernels.add_norm import add_norm_reference
from flashvsr_trt.kernels.calls import record_call, runs_kernel
from flashvsr_trt.kernels.catalogue import BLOCK
from flashvsr_trt.kernels.device import architecture_of
from flashvsr_trt.kernels.norm_rope import norm_rope_reference
from flashvsr_trt.kernels.tuning import setting_for


@torch.library.custom_op("flashvsr::norm_rope", mutates_args=("q_out", "k_out"))
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """`norm_rope_reference` of q and of k; returns the window means of both."""
    if not runs_kernel(q):
        record_call("norm_rope", "reference")
        q_means = norm_rope_reference(q, q_weight, cos, sin, eps, q_out)
        return q_means, norm_rope_reference(k, k_weight, cos, sin, eps, k_out)
    from flashvsr_trt.kernels.norm_rope_triton import launch_norm_rope

    record_call("norm_rope", "triton")
    return launch_norm_rope(
        q,
        k,
        q_weight,
        k_weight,
        cos,
        sin,
        eps,
        q_out,
        k_out,
        setting_for("norm_rope", architecture_of(q.device)),
    )


@norm_rope.register_fake
def _(q, k, q_weight, k_weight, cos, sin, eps, q_out, k_out):
    shape = (q_out.shape[0] // BLOCK, *q_out.shape[1:])
    return q.new_empty(shape, dtype=torch.float32), q.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("flashvsr::add_norm", mutates_args=())
def add_norm(
    x: torch.Tensor,
    branch: torch.Tensor,
    gate: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_norm_reference`, by the kernel where there is a GPU."""
    if not runs_kernel(x):
        record_call("add_norm", "reference")
        return add_norm_reference(x, branch, gate, weight, bias, eps)
    from flashvsr_trt.kernels.add_norm_triton import launch_add_norm

    record_call("add_norm", "triton")
    return launch_add_norm(
        x, branch, gate, weight, bias, eps, setting_for("add_norm", architecture_of(x.device))
    )


@add_norm.register_fake
def _(x, branch, gate, weight, bias, eps):
    return torch.empty_like(x), torch.empty_like(x)

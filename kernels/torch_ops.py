"""The kernels as torch operators `flashvsr::select_blocks` and `flashvsr::block_sparse_attention`.

CUDA tensors run the Triton kernels, CPU tensors the references; export and torch.compile see one node each.
What ran is counted: see `calls`.
"""

from collections.abc import Callable

import torch

from flashvsr_trt.kernels.attention_launch import attention_setting, launch_attention
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.calls import kernel_setting, record_call, runs_kernel
from flashvsr_trt.kernels.select_blocks import select_blocks_reference

LIBRARY = torch.library.Library("flashvsr", "DEF")
"""What the operators are registered in; they go with it."""


def operator(fake: Callable) -> Callable[[Callable], torch._ops.OpOverload]:
    """Make a function the operator `flashvsr::NAME`, which changes nothing; `fake` gives its results' shapes.

    torch.library.custom_op would import torch's compiler at the first call: half as long again as torch.
    """

    def register(function: Callable) -> torch._ops.OpOverload:
        name = function.__name__
        LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"flashvsr::{name}", fake, lib=LIBRARY)
        return getattr(torch.ops.flashvsr, name).default

    return register


def selected_shapes(
    probability: torch.Tensor, slot_valid: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Results of `select_blocks` without their values."""
    heads, units, windows, key_windows = probability.shape
    index = probability.new_empty((heads, units * windows, key_windows), dtype=torch.int32)
    return index, probability.new_empty((heads, units * windows), dtype=torch.int32)


@operator(selected_shapes)
def select_blocks(
    probability: torch.Tensor, slot_valid: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`select_blocks_reference`, by the kernel where there is a GPU."""
    setting = kernel_setting("select_blocks", probability)
    if setting is None:
        return select_blocks_reference(probability, slot_valid, top_k)
    from flashvsr_trt.kernels.select_blocks_triton import launch_select_blocks

    return launch_select_blocks(probability, slot_valid, top_k, setting)


@operator(lambda q, *_: q.new_empty(q.shape))
def block_sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    index: torch.Tensor,
    count: torch.Tensor,
) -> torch.Tensor:
    """`block_sparse_attention_reference`, by the architecture's fastest kernel where there is a GPU.

    Raises:
        ValueError: the kernel cannot read the arguments as they are (see `launch_attention`).
    """
    arguments = (q, k, v, ring_k, ring_v, index, count)
    if not runs_kernel(q):
        record_call("block_sparse_attention", "reference")
        return block_sparse_attention_reference(*arguments)
    setting = attention_setting("block_sparse_attention", q)
    out = launch_attention(arguments, setting)
    record_call("block_sparse_attention", setting.implementation)
    return out

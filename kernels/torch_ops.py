"""The kernels as torch operators `flashvsr::select_blocks` and `flashvsr::block_sparse_attention`.

CUDA tensors run the Triton kernels, CPU tensors the twins; export and torch.compile see one node each. What
ran is counted, so that a report can tell a kernel from its twin.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from flashvsr_trt.kernels.attention_arguments import attention_strides
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.device import architecture_of
from flashvsr_trt.kernels.select_blocks import select_blocks_reference
from flashvsr_trt.kernels.tuning import Setting, setting_for

# float32 is for comparing, not for speed: small tiles fit every architecture.
FLOAT32_SETTING = Setting(num_warps=8, constants={"KEYS": 32})

_calls: Counter[str] = Counter()
_twins_only: ContextVar[bool] = ContextVar("flashvsr_twins_only", default=False)


@contextmanager
def reference_kernels() -> Iterator[None]:
    """Within it the operators run their twins on every device (`--attention reference`)."""
    token = _twins_only.set(True)
    try:
        yield
    finally:
        _twins_only.reset(token)


def kernel_calls() -> dict[str, int]:
    """Calls so far in this process by operator and implementation: {"select_blocks/triton": 30, ...}.

    A replayed CUDA graph calls nothing: its owner multiplies what was counted while capturing.
    """
    return dict(_calls)


def reset_kernel_calls() -> None:
    """Starts counting anew."""
    _calls.clear()


@torch.library.custom_op("flashvsr::select_blocks", mutates_args=())
def select_blocks(
    probability: torch.Tensor, slot_valid: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`select_blocks_reference`, by the kernel where there is a GPU."""
    if not probability.is_cuda or _twins_only.get():
        _calls["select_blocks/reference"] += 1
        return select_blocks_reference(probability, slot_valid, top_k)
    from flashvsr_trt.kernels.select_blocks_triton import launch_select_blocks

    _calls["select_blocks/triton"] += 1
    return launch_select_blocks(probability, slot_valid, top_k)


@select_blocks.register_fake
def _(probability: torch.Tensor, slot_valid: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    heads, units, windows, key_windows = probability.shape
    index = probability.new_empty((heads, units * windows, key_windows), dtype=torch.int32)
    return index, probability.new_empty((heads, units * windows), dtype=torch.int32)


@torch.library.custom_op("flashvsr::block_sparse_attention", mutates_args=())
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
        ValueError: the kernel cannot read the arguments as they are (see `attention_strides`).
    """
    arguments = (q, k, v, ring_k, ring_v, index, count)
    if not q.is_cuda or _twins_only.get():
        _calls["block_sparse_attention/reference"] += 1
        return block_sparse_attention_reference(*arguments)
    strides = attention_strides(*arguments)
    setting = attention_setting(q)
    if setting.implementation == "hopper":
        from flashvsr_trt.kernels.block_sparse_attention_hopper import launch_hopper as launch
    else:
        from flashvsr_trt.kernels.block_sparse_attention_triton import launch_portable as launch
    _calls[f"block_sparse_attention/{setting.implementation}"] += 1
    return launch(*arguments, strides, setting)


@block_sparse_attention.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    index: torch.Tensor,
    count: torch.Tensor,
) -> torch.Tensor:
    return q.new_empty(q.shape)


def attention_setting(q: torch.Tensor) -> Setting:
    """Which attention kernel a query tensor gets, and how it is launched."""
    if q.dtype == torch.float32:
        return FLOAT32_SETTING
    return setting_for("block_sparse_attention", architecture_of(q.device), q.shape[-1])

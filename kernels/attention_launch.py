"""Launching an attention kernel: what it asks of its arguments, checked before, and one launch."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from flashvsr_trt.kernels.calls import architecture_of
from flashvsr_trt.kernels.catalogue import BLOCK, HEAD_DIMS
from flashvsr_trt.kernels.tuning import Setting, setting_for


def attention_strides(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring_k: torch.Tensor,
    ring_v: torch.Tensor,
    index: torch.Tensor,
    count: torch.Tensor,
) -> tuple[int, int, int, int, int]:
    """How `block_sparse_attention_reference`'s arguments lie, as the kernels want it behind these.

    Returns:
        Key windows that the ring holds; strides from token to token of q, k, v and the ring, in elements.

    Raises:
        ValueError: head_dim is not 32 or 128, a tensor's heads are not adjacent, the ring's slots are not, a
            stride is not a multiple of 16 bytes, keys and values differ in size, or index and count are not
            contiguous int32 of their shapes.
    """
    tokens, heads, head_dim = q.shape
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"head_dim {head_dim} has no attention kernel; it is one of {HEAD_DIMS}")
    if tokens % BLOCK:
        raise ValueError(f"q has {tokens} tokens, which is no multiple of {BLOCK}")
    rows = tokens // BLOCK
    slots, slot_tokens = ring_k.shape[:2]
    ring_windows = slots * slot_tokens // BLOCK
    ring_stride = ring_k.stride(1)
    for name, tensor in {"q": q, "k": k, "v": v, "ring_k": ring_k, "ring_v": ring_v}.items():
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype} and q is {q.dtype}; they must be the same")
        if tensor.shape[-2:] != (heads, head_dim) or tensor.stride()[-2:] != (head_dim, 1):
            raise ValueError(f"{name} {tuple(tensor.shape)} must end in adjacent [{heads}, {head_dim}] heads")
        if tensor.data_ptr() % 16 or tensor.stride(-3) * tensor.element_size() % 16:
            raise ValueError(f"{name} must be aligned to 16 bytes: stride {tensor.stride()}")
    if len(k) not in (0, tokens) or len(v) != len(k) or ring_v.shape != ring_k.shape:
        lengths = ", ".join(str(tuple(x.shape[:-2])) for x in (q, k, v, ring_k, ring_v))
        raise ValueError(f"k and v have q's tokens or none, and both rings as many; here are {lengths}")
    for name, ring in {"ring_k": ring_k, "ring_v": ring_v}.items():
        if ring.stride()[:2] != (slot_tokens * ring_stride, ring_stride):
            raise ValueError(f"{name}'s slots must follow each other: stride {ring.stride()}")
    key_windows = ring_windows + (rows if len(k) else 0)
    check_operand("index", index, torch.int32, (heads, rows, key_windows))
    check_operand("count", count, torch.int32, (heads, rows))
    return ring_windows, q.stride(0), k.stride(0), v.stride(0), ring_stride


def check_operand(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    """Raise ValueError unless the tensor is contiguous, and of this dtype and shape."""
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous {dtype} {tuple(shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        )


def attention_setting(operator: str, q: torch.Tensor) -> Setting:
    """Which of an operator's kernels a query tensor gets, and how it is launched.

    float32 is for comparing, not for speed: small tiles fit every architecture.
    """
    if q.dtype == torch.float32:
        return Setting(num_warps=8, constants={"KEYS": 32})
    return setting_for(operator, architecture_of(q.device), q.shape[-1])


def launch_attention(arguments: tuple[torch.Tensor, ...], setting: Setting) -> torch.Tensor:
    """`block_sparse_attention_reference` of its arguments, by the kernel that `setting` names.

    Raises:
        ValueError: as `attention_strides`.
    """
    strides = attention_strides(*arguments)
    q, k, count = arguments[0], arguments[1], arguments[-1]
    heads, head_dim = q.shape[1:]
    options: dict[str, Any] = {"num_warps": setting.num_warps, **setting.constants}
    kernel: Any
    if setting.implementation == "hopper":
        import triton

        from flashvsr_trt.kernels.block_sparse_attention_hopper import block_sparse_attention_hopper as kernel

        # Triton asks this allocator for the room that the tensor descriptors are built in.
        triton.set_allocator(allocate_scratch)
    else:
        from flashvsr_trt.kernels.block_sparse_attention_triton import MULTIPLIED
        from flashvsr_trt.kernels.block_sparse_attention_triton import block_sparse_attention as kernel

        options["MULTIPLIED"] = MULTIPLIED[q.dtype if q.is_cuda else torch.float32]
        options["num_stages"] = setting.num_stages
    out = q.new_empty(q.shape)
    kernel[(count.shape[1], heads)](
        *arguments,
        *strides,
        out,
        HEAD_DIM=head_dim,
        BLOCK=BLOCK,
        SCALE=math.log2(math.e) / math.sqrt(head_dim),
        OWN=len(k) > 0,
        **options,
    )
    return out


def allocate_scratch(size: int, alignment: int, stream: int | None) -> torch.Tensor:
    """What Triton calls for memory on the device."""
    return torch.empty(size, dtype=torch.int8, device="cuda")

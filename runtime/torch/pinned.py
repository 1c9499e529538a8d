"""Pinned host memory in large blocks: torch rounds each of its own up to a power of two."""

import torch

BLOCK_BYTES = 2**30
ALIGNMENT = 512


class PinnedMemory:
    """Tensors cut from pinned blocks, which stay for as long as one of their tensors does."""

    def __init__(self) -> None:
        self.block = torch.empty(0, dtype=torch.uint8)
        self.taken = 0

    def zeros_like(self, like: torch.Tensor) -> torch.Tensor:
        """Zeros of the tensor's shape, dtype and strides, so that copies are plain ones."""
        start = -(-self.taken // ALIGNMENT) * ALIGNMENT
        if start + like.nbytes > len(self.block):
            self.block, start = _pinned(max(BLOCK_BYTES, like.nbytes)), 0
        self.taken = start + like.nbytes
        return self.block[start : self.taken].view(like.dtype).as_strided(like.shape, like.stride())


def _pinned(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8, pin_memory=True)

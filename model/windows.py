"""Token order: (frame, row, column) outside the DiT, window order inside it.

Everything in a DiT block but attention is per token, so tokens are put in window order once, at the patch
embedding, and back once, at the head. Window order is (unit, window row, window column, frame, row, column).
"""

import torch

from flashvsr_trt.config.presets import WINDOW


def to_windows(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[frames * rows * columns, ...] -> the same tokens in window order."""
    depth, height, width = WINDOW
    rows, columns = grid[0] // height, grid[1] // width
    split = tokens.view(-1, depth, rows, height, columns, width, *tokens.shape[1:])
    return split.transpose(1, 2).transpose(3, 4).transpose(2, 3).reshape(tokens.shape)


def from_windows(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The inverse of `to_windows`."""
    depth, height, width = WINDOW
    rows, columns = grid[0] // height, grid[1] // width
    split = tokens.view(-1, rows, columns, depth, height, width, *tokens.shape[1:])
    return split.transpose(2, 3).transpose(3, 4).transpose(1, 2).reshape(tokens.shape)

"""Channels that hold several consecutive frames become frames of their own.

The PyTorch twin here is the specification (what follows a `TGrow` of the TC decoder).
"""

import torch


def split_frames_reference(grown: torch.Tensor, frames: int, relu: bool) -> torch.Tensor:
    """[T, frames*C, h, w] -> [T*frames, C, h, w] in channels-last memory; `relu` on the way."""
    split = grown.reshape(-1, grown.shape[1] // frames, *grown.shape[2:])
    return (split.relu() if relu else split).contiguous(memory_format=torch.channels_last)

"""Channels that hold several consecutive frames become frames of their own.

The PyTorch twin here is the specification (what follows a `TGrow` of the TC decoder).
"""

import torch


def split_frames_reference(grown: torch.Tensor, frames: int, relu: bool) -> torch.Tensor:
    """[T, frames*C, h, w] -> [T*frames, C, h, w] in channels-last memory; `relu` on the way."""
    parts = grown.permute(0, 2, 3, 1).unflatten(-1, (frames, -1)).permute(0, 3, 1, 2, 4)
    split = torch.empty(parts.shape, dtype=grown.dtype, device=grown.device)
    # One pass: taking the parts apart and putting channels innermost would be two.
    torch.clamp_min(parts, 0.0, out=split) if relu else split.copy_(parts)
    return split.flatten(0, 1).permute(0, 3, 1, 2)

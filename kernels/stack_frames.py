"""What a causal convolution reads: the four frames of each output side by side, edges repeated.

The PyTorch twin here is the specification (the padding and stacking of `model.projector.causal_conv`).
"""

import torch

FRAMES = 4
"""Frames that a causal convolution sees; it moves by two."""


def stack_frames_reference(tail: torch.Tensor, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """tail [2, h, w, C] and x [T, h, w, C], T even -> [T/2, h+2, w+2, 4*C], frames outside channels.

    Where `first`, a bool scalar, is set, a clip starts: copies of x's first frame take the tail's place.
    """
    frames = torch.cat([torch.where(first, x[:1], tail), x])
    frames = torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1)
    frames = torch.cat([frames[:, :, :1], frames, frames[:, :, -1:]], dim=2)
    return torch.cat([frames[:-2:2], frames[1:-1:2], frames[2::2], frames[3::2]], dim=-1)

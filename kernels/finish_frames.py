"""From decoded frames to pixels: AdaIN against the upscaled frames, clamp, uint8.

The PyTorch twin here is the specification (official `_adain` of TCDecoder, and the script's conversion).
"""

import torch

EPSILON = 1e-5
"""Added to a channel's variance."""


def finish_frames_reference(frames: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Gives each frame and channel the mean and deviation of the reference, then makes bytes.

    Args:
        frames: [T, 3, H, W] in about [0, 1], as the decoder makes them.
        reference: [T, 3, H, W] in about [-1, 1].

    Returns:
        [T, H, W, 3] uint8, truncated as the official script does.
    """
    frames, reference = frames.float() * 2 - 1, reference.float()
    mean, wanted_mean = (x.mean(dim=(-2, -1), keepdim=True) for x in (frames, reference))
    deviation, wanted_deviation = (
        (x.var(dim=(-2, -1), correction=0, keepdim=True) + EPSILON).sqrt() for x in (frames, reference)
    )
    matched = (frames - mean) / deviation * wanted_deviation + wanted_mean
    return ((matched.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

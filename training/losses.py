"""What the upscaled clip is compared by: levels, edges, and how both change from frame to frame."""

from dataclasses import dataclass

import torch

EPSILON = 1e-3


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts beside the levels."""

    gradient: float = 0.3
    time: float = 0.2
    square: float = 0.0


def charbonnier(difference: torch.Tensor) -> torch.Tensor:
    """Mean of sqrt(x^2 + eps^2): L1 with a smooth bottom."""
    return (difference.square() + EPSILON**2).sqrt().mean()


def clip_loss(made: torch.Tensor, target: torch.Tensor, weights: LossWeights) -> dict[str, torch.Tensor]:
    """Parts of the loss, and their `total`. Clips [clips, T, 3, H, W] in [-1, 1].

    `gradient` is of the differences of neighbouring pixels, `time` of neighbouring frames: flicker at the
    borders of chunks costs there, and blur in the first. `square`, of the levels, is what PSNR measures.
    """
    difference = made - target
    rows = difference[..., 1:, :] - difference[..., :-1, :]
    columns = difference[..., 1:] - difference[..., :-1]
    frames = difference[:, 1:] - difference[:, :-1]
    level, gradient = charbonnier(difference), charbonnier(rows) + charbonnier(columns)
    time = charbonnier(frames)
    square = difference.square().mean()
    total = level + weights.gradient * gradient + weights.time * time + weights.square * square
    return {"total": total, "level": level, "gradient": gradient, "time": time, "square": square}

"""The decoder's weights in 16 bits: folded in float32, rounded once, with each filter's sums kept.

What a ReLU leaves is nowhere negative, so the rounding errors of a filter do not average out over its inputs:
their sum is multiplied by what the inputs have in common. Of two neighbours in 16 bits, a few weights
that lie almost halfway take the farther one, and the sum is right again.
"""

import torch


def round_balanced(weight: torch.Tensor, dtype: torch.dtype, dim: int) -> torch.Tensor:
    """Each value to one of its two neighbours in `dtype`, mostly the nearest, so that sums over `dim` stay.

    Args:
        weight: float32.
        dtype: bfloat16, float16 or float32, in which nothing is rounded.
        dim: the input channels.
    """
    if dtype == torch.float32:
        return weight
    nearest = weight.to(dtype)
    error = nearest.float() - weight
    excess = error.sum(dim, keepdim=True)
    farther = _other_neighbour(weight, nearest)
    step = (farther.float() - nearest.float()).abs()
    # How much worse than the nearest the farther one is; only those that make the sum better are candidates.
    price = torch.where(error * excess > 0, step - 2 * error.abs(), torch.inf)
    price, order = price.sort(dim)
    taken = step.gather(dim, order)
    # The cheapest first, as long as each brings the sum nearer.
    moves = (taken.cumsum(dim) - taken / 2 <= excess.abs()) & price.isfinite()
    return torch.where(torch.zeros_like(moves).scatter(dim, order, moves), farther, nearest)


def _other_neighbour(weight: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
    # Floats of one sign are ordered as the integers of the same bits.
    outwards = torch.where(nearest.float().abs() < weight.abs(), 1, -1).to(torch.int16)
    return (nearest.view(torch.int16) + outwards).view(nearest.dtype)

"""What the parts of a job say to each other: nothing where there is one process, collectives between ranks.

The stages take a communicator as an argument, so that one process and a rank of several run the same lines.
`ranks.Ranks` is the communicator of several; a process alone is the case of one rank, which has everything.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

EPSILON = 1e-5
"""Added to a variance before its root (official `ColorCorrectorWavelet`)."""

HALO, STATISTICS = "halo", "statistics"
"""Kinds of traffic, by which a communicator counts what is sent."""

RowSwap = Callable[[], tuple[torch.Tensor | None, torch.Tensor | None]]
"""Waits for the neighbours' rows: those above and those below, None where the frame ends."""


class Communicator(Protocol):
    """One of `size` ranks. Every rank makes the same calls in the same order; `kind` names the traffic."""

    rank: int
    size: int

    def exchange(
        self, sends: Sequence[Sequence[torch.Tensor]], receives: Sequence[Sequence[torch.Tensor]], kind: str
    ) -> None:
        """Each rank to each, in one call: `sends[r]` fill, one by one, what rank r receives of this rank.

        `receives` are contiguous; empty tensors are not sent.
        """

    def swap_rows(self, x: torch.Tensor, rows: int, kind: str) -> RowSwap:
        """Halo exchange: start trading the first and last `rows` of [T, C, h, w] with the neighbours."""

    def all_gather(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        """Every rank's tensor, all of one shape: [size, ...]."""

    def scatter(self, parts: Sequence[torch.Tensor] | None, like: torch.Tensor, kind: str) -> torch.Tensor:
        """Part r of rank 0's parts, on rank r. Parts may differ in size; elsewhere `like` is filled."""

    def gather(
        self, part: torch.Tensor, shapes: Sequence[tuple[int, ...]], kind: str
    ) -> list[torch.Tensor] | None:
        """Every rank's part, of `shapes[r]`, on rank 0; None elsewhere."""


class OneProcess(Communicator):
    """A process alone: nothing is sent, and no row lies beyond its own."""

    rank, size = 0, 1

    def exchange(
        self, sends: Sequence[Sequence[torch.Tensor]], receives: Sequence[Sequence[torch.Tensor]], kind: str
    ) -> None:
        """See `Communicator.exchange`."""
        copy_all(sends[0], receives[0])

    def swap_rows(self, x: torch.Tensor, rows: int, kind: str) -> RowSwap:
        """See `Communicator.swap_rows`."""
        return lambda: (None, None)

    def all_gather(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        """See `Communicator.all_gather`."""
        return x[None]

    def scatter(self, parts: Sequence[torch.Tensor] | None, like: torch.Tensor, kind: str) -> torch.Tensor:
        """See `Communicator.scatter`."""
        (own,) = parts
        return own

    def gather(
        self, part: torch.Tensor, shapes: Sequence[tuple[int, ...]], kind: str
    ) -> list[torch.Tensor] | None:
        """See `Communicator.gather`."""
        return [part]


ONE_PROCESS = OneProcess()


def copy_all(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    """What a rank would send itself."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def replicate(communicator: Communicator, x: torch.Tensor, width: int) -> torch.Tensor:
    """[T, C, h, w] -> [T, C, h + 2*width, w + 2*width]: beyond the frame, its edge is repeated.

    `width` may not be more than the rows of any rank.
    """
    if communicator.size == 1:
        return F.pad(x, (width,) * 4, mode="replicate")
    above, below = communicator.swap_rows(x, width, HALO)()
    above = x[:, :, :1].expand(-1, -1, width, -1) if above is None else above
    below = x[:, :, -1:].expand(-1, -1, width, -1) if below is None else below
    return F.pad(torch.cat([above, x, below], dim=2), (width, width, 0, 0), mode="replicate")


def statistics(communicator: Communicator, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each frame and channel of [T, C, h, w], all ranks' rows: each [T, C, 1, 1]."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    if communicator.size > 1:
        count = torch.full_like(mean, x.shape[2] * x.shape[3])
        counts, means, variances = communicator.all_gather(
            torch.stack([count, mean, variance]), STATISTICS
        ).unbind(1)
        share = counts / counts.sum(dim=0)
        mean = (share * means).sum(dim=0)
        variance = (share * (variances + (means - mean).square())).sum(dim=0)
    return mean, (variance + EPSILON).sqrt()

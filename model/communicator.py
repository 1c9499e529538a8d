"""What the parts of a job say to each other: nothing where there is one process, transfers between ranks.

The stages take a communicator as an argument, so that one process and a rank of several run the same lines.
`ranks.Ranks` is the communicator of several; a process alone is the case of one rank, which has everything.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from flashvsr_trt.config.pictures import EPSILON

HALO, STATISTICS = "halo", "statistics"
"""Kinds of traffic, by which a communicator counts what is sent."""

Tensors = Sequence[torch.Tensor]


class Communicator:
    """One of `size` ranks. Every rank makes the same calls in the same order.

    `sent`: bytes sent to other ranks so far, by kind of traffic.
    """

    rank: int
    size: int
    sent: Counter[str]

    def start(
        self, sends: Mapping[int, Tensors], receives: Mapping[int, Tensors], kind: str
    ) -> Callable[[], None]:
        """Start to send to, and to receive of, other ranks, all in one call; the result waits for its end.

        `sends[r]` fill, one by one, what rank r receives of this one. What is received into is contiguous;
        empty tensors are not sent. `kind` names the traffic.
        """
        raise NotImplementedError


class OneProcess(Communicator):
    """A process alone: there is nobody to send to, and no row lies beyond its own."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()


ONE_PROCESS = OneProcess()


@contextmanager
def counted_apart(communicator: Communicator) -> Iterator[Counter[str]]:
    """Counts what is sent within it in a counter of its own: what a CUDA graph captures is not sent yet."""
    before, communicator.sent = communicator.sent, Counter()
    try:
        yield communicator.sent
    finally:
        communicator.sent = before


def exchange(
    communicator: Communicator, sends: Sequence[Tensors], receives: Sequence[Tensors], kind: str
) -> None:
    """Each rank to each: `sends[r]` fill what rank r receives of this one, this one's own part as well."""
    own = communicator.rank
    others = [rank for rank in range(communicator.size) if rank != own]
    arrived = communicator.start({r: sends[r] for r in others}, {r: receives[r] for r in others}, kind)
    for source, target in zip(sends[own], receives[own], strict=True):
        target.copy_(source)
    arrived()


def scatter(communicator: Communicator, parts: Tensors | None, like: torch.Tensor, kind: str) -> torch.Tensor:
    """Part r of rank 0's parts, on rank r. Parts may differ in size; elsewhere `like` is filled."""
    if parts is None:
        communicator.start({}, {0: [like]}, kind)()
        return like
    communicator.start({rank: [parts[rank]] for rank in range(1, communicator.size)}, {}, kind)()
    return parts[0]


def gather(
    communicator: Communicator, part: torch.Tensor, shapes: Sequence[tuple[int, ...]], kind: str
) -> list[torch.Tensor] | None:
    """Every rank's part, of `shapes[r]`, on rank 0; None elsewhere."""
    if communicator.rank:
        communicator.start({0: [part]}, {}, kind)()
        return None
    others = {rank: [part.new_empty(shapes[rank])] for rank in range(1, communicator.size)}
    communicator.start({}, others, kind)()
    return [part, *(arrived for (arrived,) in others.values())]


def replicate(communicator: Communicator, x: torch.Tensor, width: int) -> torch.Tensor:
    """[T, C, h, w] -> [T, C, h + 2*width, w + 2*width]: beyond the frame, its edge is repeated.

    `width` may not be more than the rows of any rank.
    """
    if communicator.size == 1:
        return F.pad(x, (width,) * 4, mode="replicate")
    neighbours = {
        communicator.rank - 1: x[:, :, :width],
        communicator.rank + 1: x[:, :, -width:],
    }
    edges = {rank: edge for rank, edge in neighbours.items() if 0 <= rank < communicator.size}
    beyond = {rank: edge.new_empty(edge.shape) for rank, edge in edges.items()}
    communicator.start({r: [x] for r, x in edges.items()}, {r: [x] for r, x in beyond.items()}, HALO)()
    above = beyond.get(communicator.rank - 1, x[:, :, :1].expand(-1, -1, width, -1))
    below = beyond.get(communicator.rank + 1, x[:, :, -1:].expand(-1, -1, width, -1))
    return F.pad(torch.cat([above, x, below], dim=2), (width, width, 0, 0), mode="replicate")


def statistics(communicator: Communicator, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each frame and channel of [T, C, h, w], all ranks' rows: each [T, C, 1, 1]."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    if communicator.size > 1:
        count = torch.full_like(mean, x.shape[2] * x.shape[3])
        own = torch.stack([count, mean, variance])
        every = own.new_empty(communicator.size, *own.shape)
        exchange(communicator, [[own]] * communicator.size, [[part] for part in every], STATISTICS)
        counts, means, variances = every.unbind(1)
        share = counts / counts.sum(dim=0)
        mean = (share * means).sum(dim=0)
        variance = (share * (variances + (means - mean).square())).sum(dim=0)
    return mean, (variance + EPSILON).sqrt()

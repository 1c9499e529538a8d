"""The ranks of one job and all they say to each other: collectives of torch.distributed, and a byte count.

A rank sends only what another lacks. What it sends is counted by kind, so that the formula of
docs/distributed.md can be held to what was moved.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from flashvsr_trt.model.communicator import Communicator, RowSwap, copy_all


class Ranks(Communicator):
    """This process among `size`, in the default process group: NCCL for tensors on GPUs, gloo on CPUs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.sent: Counter[str] = Counter()
        """Bytes sent to other ranks so far, by kind of traffic."""

    @property
    def others(self) -> list[int]:
        """Every rank but this."""
        return [rank for rank in range(self.size) if rank != self.rank]

    def exchange(
        self, sends: Sequence[Sequence[torch.Tensor]], receives: Sequence[Sequence[torch.Tensor]], kind: str
    ) -> None:
        """See `Communicator.exchange`."""
        outgoing = [(rank, x.contiguous()) for rank in self.others for x in sends[rank] if x.numel()]
        incoming = [(rank, x) for rank in self.others for x in receives[rank] if x.numel()]
        self._transfer(
            [dist.P2POp(dist.isend, x, rank) for rank, x in outgoing]
            + [dist.P2POp(dist.irecv, x, rank) for rank, x in incoming],
            meanwhile=lambda: copy_all(sends[self.rank], receives[self.rank]),
        )
        self._count(kind, *(x for _, x in outgoing))

    def swap_rows(self, x: torch.Tensor, rows: int, kind: str) -> RowSwap:
        """See `Communicator.swap_rows`."""
        transfers, arrivals = [], []
        for neighbour, edge in ((self.rank - 1, slice(0, rows)), (self.rank + 1, slice(-rows, None))):
            if 0 <= neighbour < self.size:
                outgoing = x[:, :, edge].contiguous(memory_format=torch.contiguous_format)
                arrivals.append(torch.empty_like(outgoing))
                transfers.append(dist.P2POp(dist.isend, outgoing, neighbour))
                transfers.append(dist.P2POp(dist.irecv, arrivals[-1], neighbour))
                self._count(kind, outgoing)
            else:
                arrivals.append(None)
        pending = dist.batch_isend_irecv(transfers) if transfers else []

        def arrived() -> tuple[torch.Tensor | None, torch.Tensor | None]:
            for transfer in pending:
                transfer.wait()
            return arrivals[0], arrivals[1]

        return arrived

    def scatter(self, parts: Sequence[torch.Tensor] | None, like: torch.Tensor, kind: str) -> torch.Tensor:
        """See `Communicator.scatter`."""
        if parts is None:
            self._transfer([dist.P2POp(dist.irecv, like, 0)])
            return like
        outgoing = [parts[rank].contiguous() for rank in self.others]
        self._transfer(
            [dist.P2POp(dist.isend, part, rank) for part, rank in zip(outgoing, self.others, strict=True)]
        )
        self._count(kind, *outgoing)
        return parts[0]

    def gather(
        self, part: torch.Tensor, shapes: Sequence[tuple[int, ...]], kind: str
    ) -> list[torch.Tensor] | None:
        """Every rank's part, of `shapes[r]`, on rank 0; None elsewhere."""
        if self.rank:
            part = part.contiguous()
            self._transfer([dist.P2POp(dist.isend, part, 0)])
            self._count(kind, part)
            return None
        parts = [part, *(part.new_empty(shape) for shape in shapes[1:])]
        self._transfer([dist.P2POp(dist.irecv, parts[rank], rank) for rank in self.others])
        return parts

    def all_gather(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        """See `Communicator.all_gather`."""
        gathered = x.new_empty((self.size, *x.shape))
        dist.all_gather(list(gathered.unbind()), x.contiguous())
        self._count(kind, *[x] * (self.size - 1))
        return gathered

    def _transfer(self, transfers: list[dist.P2POp], meanwhile: Callable[[], None] = lambda: None) -> None:
        started = dist.batch_isend_irecv(transfers) if transfers else ()
        meanwhile()
        for transfer in started:
            transfer.wait()

    def _count(self, kind: str, *tensors: torch.Tensor) -> None:
        self.sent[kind] += sum(math.prod(x.shape) * x.element_size() for x in tensors)

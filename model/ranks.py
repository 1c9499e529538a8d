"""The ranks of one job and all they say to each other: transfers of torch.distributed, and a byte count.

A rank sends only what another lacks. What it sends is counted by kind, so that the formula of
docs/distributed.md can be held to what was moved.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _coalescing_manager

from flashvsr_trt.model.communicator import Communicator, Tensors


class Ranks(Communicator):
    """This process among the ranks of a process group: NCCL for tensors on GPUs, gloo on CPUs.

    Transfers of one group run one after another. What runs at the same time has groups of its own, and as
    every rank starts the same transfers in the same order, none waits for one that cannot come.
    """

    def __init__(self, group: Any) -> None:
        self.group: dist.ProcessGroup | None = group
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.sent: Counter[str] = Counter()

    def start(
        self, sends: Mapping[int, Tensors], receives: Mapping[int, Tensors], kind: str
    ) -> Callable[[], None]:
        """See `Communicator.start`. On GPUs the transfers are part of the current stream, in its order."""
        # Kept until all is sent: gloo has no other hold on them.
        outgoing = {rank: [x.contiguous() for x in tensors] for rank, tensors in sends.items()}
        self.sent[kind] += sum(x.nbytes for tensors in outgoing.values() for x in tensors)
        moved = [x for tensors in (*outgoing.values(), *receives.values()) for x in tensors if x.numel()]
        if moved and moved[0].is_cuda:
            self._transfer(outgoing, receives, moved[0].device)
            return lambda: None
        transfers = [
            dist.P2POp(way, x, rank, self.group)
            for way, parts in ((dist.isend, outgoing), (dist.irecv, receives))
            for rank, tensors in parts.items()
            for x in tensors
            if x.numel()
        ]
        pending = dist.batch_isend_irecv(transfers) if transfers else []

        def done() -> None:
            for transfer in pending:
                transfer.wait()
            transfers.clear()

        return done

    def _transfer(
        self, sends: Mapping[int, Tensors], receives: Mapping[int, Tensors], device: torch.device
    ) -> None:
        """All in one kernel of the current stream.

        Sends and receives of torch have a stream of their own, which forks a captured graph at each of them.
        Branches that wait share hardware queues with other stages' streams and hold these up.
        """
        rounds = max(len(tensors) for tensors in (*sends.values(), *receives.values()))
        with _coalescing_manager(self.group, device):
            for turn in range(rounds):
                incoming, outgoing = (
                    [parts.get(rank, ()) for rank in range(self.size)] for parts in (receives, sends)
                )
                dtype = next(x[turn].dtype for x in (*incoming, *outgoing) if turn < len(x))
                nothing = torch.empty(0, dtype=dtype, device=device)
                dist.all_to_all(
                    [x[turn] if turn < len(x) else nothing for x in incoming],
                    [x[turn] if turn < len(x) else nothing for x in outgoing],
                    self.group,
                )

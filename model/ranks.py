"""The ranks of one job and all they say to each other: transfers of torch.distributed, and a byte count.

A rank sends only what another lacks. What it sends is counted by kind, so that the formula of
docs/distributed.md can be held to what was moved.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist

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
        """See `Communicator.start`."""
        # Kept until all is sent: gloo has no other hold on them.
        outgoing = [(rank, x.contiguous()) for rank, tensors in sends.items() for x in tensors if x.numel()]
        incoming = [(rank, x) for rank, tensors in receives.items() for x in tensors if x.numel()]
        transfers = [dist.P2POp(dist.isend, x, rank, self.group) for rank, x in outgoing]
        transfers += [dist.P2POp(dist.irecv, x, rank, self.group) for rank, x in incoming]
        pending = dist.batch_isend_irecv(transfers) if transfers else []
        self.sent[kind] += sum(x.nbytes for _, x in outgoing)

        def done() -> None:
            for transfer in pending:
                transfer.wait()
            transfers.clear()

        return done

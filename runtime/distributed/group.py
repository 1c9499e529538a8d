"""The process group of a job: joining it, talking about the work, and saying what went wrong.

Tensors go through NCCL or gloo. Each stage has a group of its own, since stages run side by side, and so has
what is sent before and after their steps: of a group all transfers are captured in CUDA graphs, or none is.
What is to be done goes through another gloo group, which waits as long as the input takes.
"""

import atexit
import os
import socket
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import psutil
import torch
import torch.distributed as dist

# Here, before there is a group: its functions would keep the default group as a default argument for ever.
import torch.distributed.nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from flashvsr_trt.config.signatures import DECODE, DIT, ENCODE
from flashvsr_trt.errors import DistributedError, FlashVSRError, UsageError
from flashvsr_trt.files.finished import what_was_written
from flashvsr_trt.model.ranks import Ranks
from flashvsr_trt.runtime.distributed.end import EndWatch, leave_at_once
from flashvsr_trt.runtime.distributed.place import Place
from flashvsr_trt.runtime.torch.device import choose_device
from flashvsr_trt.runtime.torch.rows import FRAMES, INPUTS
from flashvsr_trt.signals import exit_code, leave_end_to_system

WAIT_FOR_INPUT = timedelta(days=30)
"""A rank waits this long for rank 0's next command: a pipe may pause."""

SILENCE_SECONDS = 3.0
"""How long the cause of a lost connection is looked for."""

FAILURE = "failure"
"""The store's key for what a rank died of."""


@dataclass(frozen=True)
class Peer:
    """Where a rank runs."""

    rank: int
    host: str
    process: int

    def is_gone(self) -> bool:
        """Whether it ended; unknown, so False, on another host."""
        if self.host != socket.gethostname():
            return False
        try:
            return psutil.Process(self.process).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class Group:
    """This rank's part in the job.

    `working` is set while a command runs: the other ranks are then not listening for the next one.
    `before_leaving` lets go of what must not outlive the group. `loaded` are this rank's networks, for the
    next stream of the same.
    """

    def __init__(self, device: torch.device, store: Any) -> None:
        self.device, self.store = device, store
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # By all ranks in one order, and now: while a graph is captured, nobody can be connected.
        self.communicators = {DIT: Ranks(dist.group.WORLD)} | {
            part: Ranks(dist.new_group()) for part in (ENCODE, DECODE, INPUTS, FRAMES)
        }
        self.control: Any = dist.new_group(backend="gloo", timeout=WAIT_FOR_INPUT)
        self.working = self.failed = False
        self.watch: EndWatch | None = None
        self.before_leaving: Callable[[], None] = lambda: None
        self.loaded: dict[Hashable, Any] = {}
        self.peers = self.share(Peer(self.rank, socket.gethostname(), os.getpid()))

    def share(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def tell(self, command: Any) -> None:
        """Rank 0 to all others."""
        dist.broadcast_object_list([command], src=0, group=self.control)

    def hear(self) -> Any:
        """What rank 0 told."""
        box = [None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def report(self, error: Exception) -> None:
        """Leave what this rank dies of where rank 0 finds it."""
        reason = str(error).strip().splitlines() or [type(error).__name__]
        self.store.set(FAILURE, f"rank {self.rank} failed: {reason[0]}")

    def lost_contact(self, error: Exception) -> bool:
        """Whether the error says that another rank could not be reached."""
        return isinstance(error, dist.DistError) or "gloo" in str(error).lower()

    def cause(self) -> str | None:
        """What ended the job, if a rank said so or is gone; it is looked for a moment."""
        until = time.monotonic() + SILENCE_SECONDS
        while True:
            if self.store.check([FAILURE]):
                return self.store.get(FAILURE).decode()
            gone = [peer for peer in self.peers if peer.rank != self.rank and peer.is_gone()]
            if gone:
                names = ", ".join(f"rank {peer.rank} (process {peer.process})" for peer in gone)
                return f"{names} ended before the job was done"
            if time.monotonic() > until:
                return None
            time.sleep(0.05)

    def failure(self, error: Exception) -> Exception:
        """What to raise for an exception of a command: the cause, if it is another rank's."""
        if not self.lost_contact(error):
            self.failed = True
            return error
        return self.end(f"the ranks lost each other ({str(error).strip().splitlines()[0]})")

    def end(self, otherwise: str) -> DistributedError:
        """The error that ends the job: its cause, or `otherwise` where no rank is known to be it."""
        self.failed = True
        return DistributedError(f"{self.cause() or otherwise}; {what_was_written()}")


@cache
def join_group(device_name: str, place: Place) -> Group:
    """Meet the other ranks. `device_name` is "auto", "cpu" or "cuda"; each rank takes a GPU of its own.

    Raises:
        UsageError: more ranks on this host than GPUs.
    """
    device = choose_device(device_name)
    if device.type == "cuda":
        check_gpus(place.local_size)
        device = torch.device("cuda", place.local_rank)
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("ranks", store),
        rank=rank,
        world_size=size,
        device_id=device if device.type == "cuda" else None,
    )
    group = Group(device, store)
    if rank == 0:
        group.watch = EndWatch(lambda: group.failed, group.end)
    else:
        # Rank 0 decides what a signal means and the others have nothing to save.
        leave_end_to_system()
    return group


def check_gpus(wanted: int) -> None:
    """Raises UsageError if this host has fewer GPUs."""
    found = torch.cuda.device_count()
    if wanted > found:
        raise UsageError(
            f"{wanted} ranks need {wanted} GPUs and this machine has {found}; "
            + (f"use at most {found}" if found else "use --device cpu")
        )


def leave_group(group: Group, error: BaseException | None = None) -> None:
    """Part from the other ranks: rank 0 tells them, unless they are busy or gone.

    `error` is what this rank ends with. After Ctrl-C the others got it too, and are gone.
    """
    join_group.cache_clear()
    interrupted = error is not None and not isinstance(error, FlashVSRError)
    if interrupted or group.failed or group.working:
        group.failed = True
        code = exit_code(error) if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        # NCCL's own farewell would wait for ranks that are gone.
        atexit.register(leave_at_once, code)
        return
    if group.watch:
        group.tell(None)
        group.watch.close()
    if group.device.type == "cuda":
        torch.cuda.synchronize(group.device)
    group.before_leaving()
    # With the last reference a group's threads end. One that still dropped the tensors of the last message
    # when the interpreter ends would abort the process.
    group.control = None
    for ranks in group.communicators.values():
        ranks.group = None
    dist.destroy_process_group()

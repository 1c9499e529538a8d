"""Start ranks as torchrun does: by torchrun itself, or on processes that have imported torch already."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch.distributed as dist
from torch.multiprocessing import start_processes

ROOT = Path(__file__).resolve().parents[2]

TIME_LIMIT = 300
"""Seconds after which a job hangs."""

IMPORTED_ONCE = ["tests.distributed.clip_job"]
"""What the ranks of `run_ranks` are forked with; importing it costs a rank as much as its part of a clip."""


def environment() -> dict[str, str]:
    """That of this process, with the checkout importable and one thread a rank."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(ranks: int, module: str, *arguments: object) -> subprocess.CompletedProcess:
    """`torchrun --nproc_per_node=RANKS -m MODULE ARGUMENTS`, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    return subprocess.run(
        [*command, "-m", module, *map(str, arguments)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )


def run_ranks(ranks: int, job: Callable[..., None], *arguments: object) -> None:
    """`job(*arguments)` on each of `ranks` processes, to its end, in torchrun's environment.

    Raises:
        ProcessException: a rank failed; the others are ended.
        TimeoutError: they hang.
    """
    get_context("forkserver").set_forkserver_preload(IMPORTED_ONCE)
    # The launcher keeps the store, as torchrun's agent does, so no port has to be guessed.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    rank_arguments = (ranks, store.port, job, arguments)
    started = start_processes(_rank, rank_arguments, nprocs=ranks, join=False, start_method="forkserver")
    until = time.monotonic() + TIME_LIMIT
    while not started.join(timeout=max(0, until - time.monotonic())):
        if time.monotonic() > until:
            for process in started.processes:
                process.kill()
            raise TimeoutError(f"{ranks} ranks were not done after {TIME_LIMIT} seconds")


def _rank(rank: int, ranks: int, port: int, job: Callable[..., None], arguments: tuple) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    agent = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ |= {name: str(value) for name, value in (places | agent).items()}
    job(*arguments)

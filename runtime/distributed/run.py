"""`run` on several ranks: which of them this process is, and what it does for the job. Imports no torch.

Rank 0 reads, writes and decides; it runs `upscale_file` like a single process. The others wait for what its
executor asks of them (docs/distributed.md).
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flashvsr_trt.config.presets import find_preset
from flashvsr_trt.errors import DistributedError, FlashVSRError, UsageError
from flashvsr_trt.runtime.distributed.place import Place, torchrun_place
from flashvsr_trt.runtime.request import RunOptions

LINGER_SECONDS = 15
"""How long a rank that is not the cause of a failure waits for torchrun to end it."""


def launch_if_asked(gpus: int | None, options: RunOptions, arguments: Sequence[str]) -> None:
    """`--gpus N` outside torchrun: run the command on N ranks, and exit as rank 0 did.

    Raises:
        UsageError: as `run_ranks`, or torchrun started another number of ranks.
        DistributedError: rank 0 ended without a word.
    """
    place = torchrun_place()
    if place and gpus not in (None, place.size):
        raise UsageError(f"--gpus {gpus} under torchrun with {place.size} ranks; leave out --gpus")
    if place or gpus in (None, 1):
        return
    check_options(options)
    from flashvsr_trt.runtime.distributed.launch import launch_ranks

    sys.exit(launch_ranks(gpus, options.device, arguments))


@contextmanager
def run_ranks(options: RunOptions) -> Iterator[None]:
    """What every process of `run` runs in. Only rank 0, or a process alone, gets to the body.

    The others serve rank 0 and exit: 0 when it is done, 1 when something failed.

    Raises:
        UsageError: options that several ranks cannot have, or more ranks than GPUs.
        DistributedError: ranks that differ, or one that ended.
    """
    place = torchrun_place()
    if place is None:
        yield
        return
    if place.rank:
        sys.exit(_serve(options, place))
    check_options(options)
    from flashvsr_trt.runtime.distributed.group import join_group, leave_group

    group = join_group(options.device, place)
    try:
        yield
    except BaseException as error:
        leave_group(group, error)
        raise
    leave_group(group)


def check_options(options: RunOptions) -> None:
    """Raises UsageError for what only a single process does."""
    if options.backend not in ("auto", "torch"):
        raise UsageError(f"--backend {options.backend} runs on one GPU; several need --backend torch")
    if options.compile:
        raise UsageError("--compile is for one GPU; leave it out with several")
    if options.vram or options.tile not in ("auto", "off"):
        raise UsageError("--tile and --vram are for one GPU; several share each frame whole: leave them out")
    if ":" in options.device:
        raise UsageError(
            f"--device {options.device} names one GPU; several ranks take one each with --device cuda"
        )


def _serve(options: RunOptions, place: Place) -> int:
    """A rank other than 0, to its end. Rank 0 reports for all, so nothing is printed here."""
    from flashvsr_trt.runtime.distributed.executor import serve
    from flashvsr_trt.runtime.distributed.group import join_group, leave_group

    group = None
    try:
        check_options(options)
        group = join_group(options.device, place)
        serve(group, find_preset(options.preset), options.weights)
        leave_group(group)
        return 0
    except Exception as error:
        if os.environ.get("FLASHVSR_DEBUG_RANKS"):
            traceback.print_exc()
        ours = group if group is not None and not group.lost_contact(error) else None
        if ours:
            ours.report(error)
        if not ours or isinstance(error, DistributedError):
            # Not the cause: were this rank to exit first, torchrun would take it for one.
            threading.Event().wait(LINGER_SECONDS)
        return FlashVSRError.exit_code

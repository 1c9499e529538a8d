"""`--gpus N`: start N ranks of this command as torchrun does, by its own launcher."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from flashvsr_trt.errors import DistributedError, UsageError
from flashvsr_trt.signals import END_SIGNALS


def launch_ranks(count: int, device: str, arguments: Sequence[str]) -> int:
    """Run `flashvsr-trt ARGUMENTS` on `count` ranks of this machine; the exit code of rank 0.

    Rank 0 prints what there is to say. SIGINT, SIGTERM and SIGHUP go on to the ranks, those that are ignored
    do not.

    Raises:
        UsageError: more ranks than GPUs, unless `device` is "cpu".
        DistributedError: rank 0 ended without a word.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from flashvsr_trt.runtime.distributed.group import check_gpus

    if count < 1:
        raise UsageError(f"--gpus {count} is no number of GPUs; use 1 or more")
    if device != "cpu":
        check_gpus(count)
    # As torchrun: the ranks of a CPU would otherwise each start a thread on every core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    # The launcher's own account of a failure is a page, and rank 0 says it in a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    taken = [number for number in END_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    handled = ",".join(signal.Signals(number).name for number in taken)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = handled
    # Newer releases set the variable from the configuration.
    takes: dict[str, Any] = (
        {"signals_to_handle": handled} if "signals_to_handle" in LaunchConfig.__dataclass_fields__ else {}
    )
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        **takes,
    )
    command = ["-m", "flashvsr_trt", *arguments]
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as ended:
        return 128 + ended.sigval
    except ChildFailedError as error:
        failed = error.failures.get(0)
        # Where another rank died, torch ends rank 0 with SIGTERM, which has said by then whose end it was.
        ended_with_another = len(error.failures) > 1 and failed and failed.exitcode == -signal.SIGTERM
        if failed is None or ended_with_another:
            return DistributedError.exit_code
        if failed.exitcode < 0:
            raise DistributedError(
                f"rank 0 was ended by {signal.Signals(-failed.exitcode).name}; what it was writing is lost"
            ) from error
        return failed.exitcode
    return 0

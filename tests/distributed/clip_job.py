"""What every rank of a job does: the clips of `cases`, in turn.

Each rank writes its rows of the float frames, rank 0 the bytes and every rank's reports before each push.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from flashvsr_trt.runtime.distributed.executor import Open, open_distributed_executor, open_work
from flashvsr_trt.runtime.distributed.group import Group, join_group, leave_group
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.distributed.cases import REPLAYED, STREAMS, WEIGHTS, keep_floats, run_clip
from tests.runtime.torch_executor.rerun import rerun_instead_of_graphs

END = "end of the clip"


def run_stream(group: Group, name: str, folder: Path) -> None:
    """One clip, from opening to the last frame."""
    stream = STREAMS[name]
    if group.rank == 0:
        executor = open_distributed_executor(ExecutorRequest(stream, WEIGHTS, "cpu"), lambda _: None)
        floats = prepare(executor.work.executor, name)
        reports: list = []
        frames = run_clip(executor, lambda: reports.append(executor.report()))
        reports.append(executor.report())
        group.tell(END)
        np.save(folder / f"{name}.npy", frames)
        (folder / f"{name}.json").write_text(json.dumps(reports))
    else:
        order = group.hear()
        assert isinstance(order, Open)
        work = open_work(group, order, stream.preset, WEIGHTS)
        floats = prepare(work.executor, name)
        while (command := group.hear()) != END:
            work.run(command)
    np.save(folder / f"{name}.{group.rank}.npy", torch.cat(floats).numpy())


def prepare(executor: TorchExecutor, name: str) -> list[torch.Tensor]:
    """The float frames that the executor will make."""
    executor.cuda_graphs = name in REPLAYED
    return keep_floats(executor.decode_stage)


def run_streams(folder: Path, names: Sequence[str]) -> None:
    """Join the others, run these clips and leave."""
    torch.set_num_threads(1)
    group = join_group("cpu", torchrun_place())
    with rerun_instead_of_graphs():
        for name in names:
            run_stream(group, name, folder)
    if group.rank:
        assert group.hear() is None
    leave_group(group)

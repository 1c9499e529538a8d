"""What torchrun starts on every rank: the clips of `cases`, in turn.

    torchrun -m tests.distributed.clip_job FOLDER STREAM...

Each rank writes its rows of the float frames, rank 0 the bytes and every rank's reports before each push.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from flashvsr_trt.runtime.backends import ExecutorRequest
from flashvsr_trt.runtime.distributed import torchrun_place
from flashvsr_trt.runtime.distributed_executor import Open, Work, open_distributed_executor, open_shard
from flashvsr_trt.runtime.distributed_group import Group, join_group, leave_group
from tests.distributed.cases import STREAMS, UNEVEN_STREAMS, WEIGHTS, keep_floats, run_clip

END = "end of the clip"


def run_stream(group: Group, name: str, folder: Path) -> None:
    """One clip, from opening to the last frame."""
    stream = (STREAMS | UNEVEN_STREAMS)[name]
    if group.rank == 0:
        executor = open_distributed_executor(ExecutorRequest(stream, WEIGHTS, "cpu"), lambda _: None)
        floats = keep_floats(executor.work.shard.decode_stage)
        reports: list = []
        frames = run_clip(executor, lambda: reports.append(executor.report()))
        reports.append(executor.report())
        group.tell(END)
        np.save(folder / f"{name}.npy", frames)
        (folder / f"{name}.json").write_text(json.dumps(reports))
    else:
        order = group.hear()
        assert isinstance(order, Open)
        work = Work(open_shard(group, order, stream.preset, WEIGHTS))
        floats = keep_floats(work.shard.decode_stage)
        while (command := group.hear()) != END:
            work.run(command)
    np.save(folder / f"{name}.{group.rank}.npy", torch.cat(floats).numpy())


if __name__ == "__main__":
    torch.set_num_threads(1)
    job_group = join_group("cpu", torchrun_place())
    for stream_name in sys.argv[2:]:
        run_stream(job_group, stream_name, Path(sys.argv[1]))
    if job_group.rank:
        assert job_group.hear() is None
    leave_group(job_group)

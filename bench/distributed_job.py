"""Measurements of `bench.distributed`, started by torchrun on every rank; rank 0 prints a line of JSON each.

torchrun --nproc_per_node=N -m bench.distributed_job JOBS, where JOBS are a list of `Job` as JSON.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.rank_profile import kernel_profile
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.notices import log_notice
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.distributed.report import rank_report
from flashvsr_trt.runtime.distributed.run import run_ranks
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.request import ExecutorRequest, RunOptions, TorchOptions
from flashvsr_trt.runtime.session import Session

WARM_UP_UNITS = {"cpu": 6, "cuda": 16}
"""Past the filling of the ring and, on a GPU, the capture of each slot's graph."""

FILLING_CHUNKS = 2

PROFILED_CHUNKS = 4


@dataclass(frozen=True)
class Job:
    """What one job measures: LR frames of `size`, height before width, at 2x, in chunks of `chunk` frames."""

    preset: str
    size: tuple[int, int]
    chunk: int
    device: str
    dtype: str
    chunks: int
    cuda_graphs: bool | None
    profile: bool

    @property
    def scene(self) -> str:
        """The size as FFmpeg spells it."""
        return f"{self.size[1]}x{self.size[0]}"

    @property
    def stream(self) -> StreamConfig:
        """Raises PresetError for an unknown preset."""
        geometry = Geometry(*self.size, 2)
        return StreamConfig(find_preset(self.preset), geometry, find_schedule("low-latency"))


def open_for(job: Job) -> Executor:
    """The executor of a job, and of all that differ from it by their chunks alone."""
    if job.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    options = TorchOptions(cuda_graphs=job.cuda_graphs)
    request = ExecutorRequest(job.stream, "random:0", job.device, job.dtype, options)
    return open_executor("torch", request, log_notice)


def measure(executor: Executor, job: Job) -> dict:
    """Steady chunks from frames in host memory to frames in host memory, as `run` takes them: overlapped."""
    with Session(executor, chunk_size=job.chunk, overlap=True) as session:
        return measure_session(session, job)


def measure_session(session: Session, job: Job) -> dict:
    """As `measure`, of a clip that starts."""
    frames = np.random.default_rng(0).integers(0, 256, (job.chunk, *job.size, 3), np.uint8)

    def push(chunks: int) -> float:
        """Seconds; of each chunk the one before it is waited for."""
        started = time.perf_counter()
        for _ in range(chunks):
            session.push(frames)
        return time.perf_counter() - started

    push(WARM_UP_UNITS[job.device] * UNIT_FRAMES // job.chunk)
    before = reports(session)
    # A report waits for the GPUs: the first chunks after it fill the pipeline again.
    push(FILLING_CHUNKS)
    seconds = push(job.chunks)
    after = reports(session)
    moved = total(after, "sent_bytes")
    moved.subtract(total(before, "sent_bytes"))
    for earlier, rank in zip(before, after, strict=True):
        spent = rank.pop("stage_seconds")
        rank["stage_ms"] = {
            stage: 1e3 * (spent[stage] - earlier["stage_seconds"][stage]) / (job.chunks + FILLING_CHUNKS)
            for stage in spent
        }
    made = {
        "ms_per_chunk": 1e3 * seconds / job.chunks,
        "bytes_per_chunk": {
            kind: count // (job.chunks + FILLING_CHUNKS) for kind, count in moved.items() if count
        },
        "ranks": after,
        "executor": session.executor.describe(),
    }
    if job.profile:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
            push(PROFILED_CHUNKS)
        made["profile"] = kernel_profile(recorded, PROFILED_CHUNKS)
    return made


def reports(session: Session) -> list[dict]:
    """What each rank has (`rank_report`)."""
    if torchrun_place():
        return session.executor.report()
    return [rank_report(session.executor, [session.state])]


def total(ranks: Sequence[dict], name: str) -> Counter[str]:
    """Counts by kind, of all ranks."""
    counts: Counter[str] = Counter()
    for rank in ranks:
        counts.update(rank[name])
    return counts


if __name__ == "__main__":
    jobs = [Job(**job | {"size": tuple(job["size"])}) for job in json.loads(sys.argv[1])]
    first = jobs[0]
    run_options = RunOptions(
        input="-", preset=first.preset, weights="random:0", device=first.device, dtype=first.dtype
    )
    with run_ranks(run_options):
        for _, alike in groupby(jobs, lambda job: replace(job, chunk=0)):
            alike = list(alike)
            opened = open_for(alike[0])
            for job in alike:
                print(json.dumps(measure(opened, job)), flush=True)
            del opened

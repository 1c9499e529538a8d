"""One measurement of `bench.distributed`, started by torchrun on every rank; rank 0 prints it as JSON.

torchrun --nproc_per_node=N -m bench.distributed_job PRESET WIDTHxHEIGHT DEVICE DTYPE CHUNKS
"""

import json
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.notices import log_notice
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.distributed.run import run_ranks
from flashvsr_trt.runtime.distributed.shard import ShardState
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.run_options import RunOptions
from flashvsr_trt.runtime.session import Session

WARM_UP_CHUNKS = 12
"""Past the filling of the ring and, in a single process on a GPU, the capture of each slot's graph."""


def measured_stream(preset: str, size: tuple[int, int]) -> StreamConfig:
    """LR frames of `size`, height before width, at 2x. Raises PresetError for an unknown preset."""
    return StreamConfig(find_preset(preset), Geometry(*size, 2), find_schedule("low-latency"))


def measure(options: RunOptions, size: tuple[int, int], chunks: int) -> dict:
    """Steady chunks of an LR frame of `size`, 2x, from frames in host memory to frames in host memory."""
    stream = measured_stream(options.preset, size)
    request = ExecutorRequest(stream, options.weights, options.device, options.dtype)
    executor = open_executor("torch", request, log_notice)
    session = Session(executor)
    frames = np.random.default_rng(0).integers(0, 256, (UNIT_FRAMES, *size, 3), np.uint8)
    for _ in range(WARM_UP_CHUNKS):
        session.push(frames)
    before, seconds = reports(session), []
    for _ in range(chunks):
        started = time.perf_counter()
        session.push(frames)
        seconds.append(time.perf_counter() - started)
    after = reports(session)
    moved = sent(after)
    moved.subtract(sent(before))
    return {
        "ms_per_chunk": 1000 * statistics.median(seconds),
        "bytes_per_chunk": {kind: count // chunks for kind, count in moved.items() if count},
        "ranks": after,
        "executor": executor.describe(),
    }


def reports(session: Session) -> list[dict]:
    """What each rank has (`Shard.report`); a single process sends nothing."""
    executor, state = session.executor, session.state
    if torchrun_place():
        return executor.report()
    on_gpu = executor.device.type == "cuda"
    host_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        {
            "rank": 0,
            "sent_bytes": {},
            "state_bytes": ShardState(state.encode, state.ring, state.memory).size_bytes(),
            "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else host_peak,
            "stage_seconds": executor.stage_seconds(),
        }
    ]


def sent(ranks: Sequence[dict]) -> Counter[str]:
    """Bytes by kind, of all ranks."""
    total: Counter[str] = Counter()
    for rank in ranks:
        total.update(rank["sent_bytes"])
    return total


if __name__ == "__main__":
    preset, scene, device, dtype, count = sys.argv[1:]
    run_options = RunOptions("-", preset=preset, weights="random:0", device=device, dtype=dtype)
    with run_ranks(run_options):
        frame_width, frame_height = map(int, scene.split("x"))
        print(json.dumps(measure(run_options, (frame_height, frame_width), int(count))))

"""Prints how much memory a clip of `nano` in tiles takes of a CPU, and how much was predicted, in bytes.

Run in a process of its own: `python -m tests.runtime.taken_memory H W TILE_H TILE_W SCHEDULE`.
"""

import resource
import sys
from pathlib import Path

import numpy as np
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.process_memory import peak_process_bytes
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import ExecutorRequest, TileOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.device import estimate_on


def main(height: int, width: int, tile: tuple[int, int], schedule: str) -> None:
    torch.set_num_threads(1)
    stream = StreamConfig(find_preset("nano"), Geometry(height, width, 2), find_schedule(schedule))
    predicted = estimate_on(torch.device("cpu"), torch.float32)(stream, TilePlan(stream.geometry, tile))
    # The backend is imported by then: its code is no part of what a stream takes.
    import flashvsr_trt.runtime.torch.open  # noqa: F401

    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    request = ExecutorRequest(stream, device="cpu", tiles=TileOptions(tile))
    with Session(open_executor("torch", request), overlap=True) as session:
        for _ in range(3):
            session.push(np.random.default_rng(0).integers(0, 256, (8, height, width, 3), np.uint8))
        session.flush()
    taken = peak_process_bytes() - before
    print(predicted.total, taken)


if __name__ == "__main__":
    height, width, tile_height, tile_width = map(int, sys.argv[1:5])
    main(height, width, (tile_height, tile_width), sys.argv[5])

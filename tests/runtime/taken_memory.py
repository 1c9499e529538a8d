"""Prints how much memory a clip in tiles takes of a CPU or a GPU, and how much was predicted, in bytes.

Run in a process of its own, with ExecutorRequest's options as JSON:
`python -m tests.runtime.taken_memory '{"size": [128, 250], "tile": [256, 384], "device": "cpu"}'`.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flashvsr_trt.runtime.torch.open as opening
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.memory import TilePlaces
from flashvsr_trt.process_memory import peak_process_bytes
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.request import ExecutorRequest, TileOptions, TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.device_memory import estimate_on


def upscale(executor: Executor, chunks: int) -> None:
    """So many chunks of 8 frames of noise: three fill the first step of `official`, more make it steady."""
    height, width = executor.stream.geometry.height, executor.stream.geometry.width
    generator = np.random.default_rng(0)
    with Session(executor, overlap=True) as session:
        for _ in range(chunks):
            session.push(generator.integers(0, 256, (8, height, width, 3), np.uint8))
        session.flush()


def on_cpu(request: ExecutorRequest) -> tuple[int, int]:
    """Bytes that are predicted and taken, beside what the process holds once the backend is imported."""
    torch.set_num_threads(1)
    stream, tile = request.stream, request.tiles.tile
    assert isinstance(tile, tuple)
    predicted = estimate_on(torch.device("cpu"), torch.float32)(stream, TilePlan(stream.geometry, tile))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    upscale(open_executor("torch", request), chunks=3 if stream.schedule.first_units > 1 else 2)
    return predicted.total, peak_process_bytes() - before


def on_gpu(request: ExecutorRequest) -> tuple[int, int]:
    """Bytes that torch was held to, which are those that were predicted, and that its allocator had."""
    place, bound, held = opening.place_tiles, opening.bound_memory, []

    def place_and_keep(*arguments: Any) -> TilePlaces:
        places = place(*arguments)
        held.append(places.needed.total)
        return places

    opening.place_tiles = place_and_keep
    opening.bound_memory = lambda device, budget: bound(device, held[0])
    upscale(open_executor("torch", request), chunks=9)
    return held[0], torch.cuda.max_memory_reserved()


def main(
    size: list[int],
    device: str,
    tile: str | list[int] = "auto",
    vram: int | None = None,
    preset: str = "nano",
    schedule: str = "official",
    **options: Any,
) -> None:
    stream = StreamConfig(find_preset(preset), Geometry(*size, 2), find_schedule(schedule))
    tiles = TileOptions(tile if isinstance(tile, str) else (tile[0], tile[1]), vram)
    request = ExecutorRequest(stream, "random:1", device, torch=TorchOptions(**options), tiles=tiles)
    print(*(on_cpu if device == "cpu" else on_gpu)(request))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))

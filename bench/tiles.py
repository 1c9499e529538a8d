"""Tiles on this GPU under caps of memory, and beside frames in one piece: ms a frame and peak, in turns.

    python -m bench.tiles [--scene 1280x720 ...] [--cap 8 ...] [--preset sparse-2.0] [--json FILE]

A cap, in GiB, holds all that torch allocates. Each scene's run in one piece has none; it is timed before and
after each of the tiled runs, on the same weights.
"""

import gc
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch

from bench.gpu_timing import require_gpu
from bench.steady_stages import load_random, random_frames
from flashvsr_trt.cli.option_types import SizeType
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.memory import GIB, Parking
from flashvsr_trt.model.network import Network
from flashvsr_trt.quality.seams import seam_sigmas, tile_borders
from flashvsr_trt.runtime.choose_tiles import choose_tiles, words
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.request import TileOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.device import choose_parking, resident_bytes, stream_memory
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.tiles import in_tiles

DTYPE = torch.bfloat16
FIRST_FRAMES = 25
WARM_UP_CHUNKS = 9
"""Past the ring's filling and past the capture of each slot's graph, in both places."""


@dataclass(frozen=True)
class Run:
    """One timed run. `parked` is where waiting tiles were; sizes in GiB."""

    scene: str
    cap: float | None
    tile: str
    tiles: int
    parked: str
    ms_a_frame: float
    predicted: float
    reserved: float
    allocated: float


def time_run(executor: Executor, frames: int) -> float:
    """Milliseconds a frame of so many steady ones, from bytes in host memory to bytes in host memory."""
    chunk = random_frames(executor.stream, UNIT_FRAMES)
    with Session(executor, overlap=True) as session:
        session.push(random_frames(executor.stream, FIRST_FRAMES))
        for _ in range(WARM_UP_CHUNKS):
            session.push(chunk)
        torch.cuda.synchronize()
        started = time.perf_counter()
        made = sum(len(session.push(chunk)) for _ in range(-(-frames // UNIT_FRAMES)))
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - started) / made


def run_once(
    network: Network,
    stream: StreamConfig,
    scene: str,
    cap: float | None,
    frames: int,
    asked: tuple[int, int] | None = None,
) -> Run:
    """One run, in the tiles that are asked for, or that the cap asks for.

    Raises:
        FlashVSRError: nothing fits.
        torch.OutOfMemoryError: the estimate was too low.
    """
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(0).total_memory
    budget = int(cap * GIB) if cap else torch.cuda.mem_get_info()[0]
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total) if cap else 1.0)

    def estimate(stream, plan):
        return stream_memory(stream, DTYPE, plan)

    tile = TileOptions((asked or "auto") if cap else "off")
    plan = choose_tiles(stream, tile, estimate, budget, "the GPU", lambda line: click.echo(line, err=True))
    if plan is None:
        executor, parked = TorchExecutor(network, stream), "-"
        predicted = estimate(stream, None)
    else:
        parking = choose_parking(stream, DTYPE, plan, budget)
        resident = resident_bytes(stream, DTYPE, plan, budget, parking)
        tiles = TorchExecutor(network, plan.tile_stream(stream))
        executor = in_tiles(tiles, stream, plan, parking, resident)
        parked = f"{parking.name}, {resident / GIB:.1f} GiB of rings stay"
        predicted = stream_memory(stream, DTYPE, plan, parking)
        predicted = replace(predicted, state=predicted.state + resident)
    ms = time_run(executor, frames)
    return Run(
        scene,
        cap,
        words(plan) if plan else "off",
        len(plan.tiles) if plan else 1,
        parked,
        ms,
        predicted.total / GIB,
        torch.cuda.max_memory_reserved() / GIB,
        torch.cuda.max_memory_allocated() / GIB,
    )


def difference(network: Network, preset: str) -> dict[str, float | bool]:
    """Whether rings that were parked come back bit for bit, and how far tiles are from one piece."""
    geometry = Geometry(256, 400, 2)
    stream = StreamConfig(find_preset(preset), geometry, find_schedule("official"))
    budget = torch.cuda.mem_get_info()[0]
    made = {}
    for where in (None, *Parking):
        executor: Executor = TorchExecutor(network, stream)
        if where:
            plan = choose_tiles(
                stream, TileOptions((384, 512)), lambda s, p: stream_memory(s, DTYPE, p), budget, "", print
            )
            assert plan
            tiles = TorchExecutor(network, plan.tile_stream(stream))
            executor = in_tiles(tiles, stream, plan, where)
        with Session(executor, overlap=True) as session:
            frames = random_frames(stream, 73)
            made[where] = np.concatenate([session.push(frames), session.flush()]).astype(np.int16)
    sigmas = {where: worst_seam(made[where], plan) for where in (None, Parking.GPU)}
    return {
        "worst seam in sigmas, of tiles and of one piece": [sigmas[Parking.GPU], sigmas[None]],
        "parking on host and GPU agree": all(np.array_equal(made[p], made[Parking.GPU]) for p in Parking),
        "mean difference to one piece, in levels": float(np.abs(made[Parking.GPU] - made[None]).mean()),
    }


def worst_seam(frames: np.ndarray, plan: TilePlan) -> float:
    """The most sigmas of any line along a tile's border."""
    found = [
        seam_sigmas(frames.astype(np.uint8), tile_borders(starts, tile), axis)
        for axis, (starts, tile) in enumerate(zip(plan.corners, plan.tile, strict=True))
    ]
    return max(sigmas for lines in found for sigmas in lines.values())


def row(run: Run, whole_ms: float | None) -> str:
    """One line of the table."""
    against = f"{run.ms_a_frame / whole_ms:.2f}" if whole_ms else "-"
    cells = run.scene, run.cap or "none", run.tile, run.tiles, run.parked, f"{run.ms_a_frame:.1f}", against
    sizes = (f"{size:.2f}" for size in (run.predicted, run.reserved, run.allocated))
    return f"| {' | '.join(map(str, (*cells, *sizes)))} |"


HEADER = """
| LR frame | cap | tile | tiles | parking | ms a frame | of one piece | predicted | reserved | allocated |
| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"""


@click.command()
@click.option("--scene", "scenes", type=SizeType(), multiple=True, default=["1280x720", "1920x1080"])
@click.option("--cap", "caps", type=float, multiple=True, default=[8.0, 12.0, 24.0], help="GiB.")
@click.option("--tile", "asked", type=SizeType(), help="Under every cap.  [default: as run --tile auto]")
@click.option("--preset", default=DEFAULT_PRESET, show_default=True)
@click.option("--frames", type=click.IntRange(min=1), default=60, show_default=True, help="Timed ones.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(scenes, caps, asked, preset: str, frames: int, json_file: Path | None) -> None:
    """Print the table; write JSON where asked."""
    device = require_gpu()
    network = load_random(find_preset(preset).network, DTYPE, "cuda")
    facts = difference(network, preset)
    click.echo(f"{device}, torch {torch.__version__}, {preset}, bfloat16, 2x; {facts}")
    click.echo(HEADER)
    runs: list[Run] = []
    for height, width in scenes:
        stream = StreamConfig(find_preset(preset), Geometry(height, width, 2), find_schedule("official"))
        whole_ms = None
        for cap in (None, *(either for capped in caps for either in (capped, None))):
            try:
                run = run_once(network, stream, f"{width}x{height}", cap, frames, asked)
            except (FlashVSRError, torch.OutOfMemoryError) as error:
                reason = str(error).splitlines()[0]
                click.echo(f"| {width}x{height} | {cap or 'none'} | {type(error).__name__}: {reason} |")
                continue
            if cap is None:
                whole_ms = run.ms_a_frame
            runs.append(run)
            click.echo(row(run, whole_ms))
    if json_file:
        report = {"device": device, **facts, "runs": [asdict(run) for run in runs]}
        json_file.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

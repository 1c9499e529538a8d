"""Tiles on this GPU under caps of memory, and beside frames in one piece: ms a frame and peak, in turns.

    python -m bench.tiles [--scene 1280x720 ...] [--cap 8 ...] [--preset sparse-2.0] [--json FILE]

A cap, in GiB, is what tiles are chosen for. Torch is held to what is predicted, in tiles and in one piece.
Each scene's run in one piece is timed before and after each of the tiled runs, on the same weights.
"""

import gc
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch

from bench.gpu_timing import require_gpu
from bench.seams import seam_sigmas, tile_borders
from bench.steady_stages import load_random, random_frames
from flashvsr_trt.cli.options import SizeType
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, SCHEDULES, UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.memory import GIB, Parking, place_tiles
from flashvsr_trt.model.network import Network
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.choose_tiles import choose_tiles, words
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.request import DIT_PRECISIONS, KV_CACHES, TileOptions, TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.device_memory import (
    bound_memory,
    estimate_on,
    free_memory,
    kept_ring,
    storage_of,
)
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.precision import fp8_products
from flashvsr_trt.runtime.torch.tiles import in_tiles
from flashvsr_trt.stage_memory import ALONE_PIXELS

DTYPE = torch.bfloat16
FIRST_FRAMES = 25
WARM_UP_CHUNKS = 5
"""Past the ring's filling and past the capture of each slot's graph."""


@dataclass(frozen=True)
class Run:
    """One timed run; sizes in GiB. `outside`: in use and not torch's: context, libraries, other processes."""

    scene: str
    cap: float | None
    tile: str
    tiles: int
    parking: str
    host: float
    resident: float
    ms_a_frame: float
    predicted: float
    reserved: float
    allocated: float
    outside: float


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
    options: TorchOptions,
    asked: tuple[int, int] | None = None,
) -> Run:
    """One run, in the tiles that are asked for, or that the cap asks for; torch is held to what is predicted.

    Raises:
        FlashVSRError: nothing fits.
        torch.OutOfMemoryError: the estimate was too low.
    """
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device = torch.device("cuda")
    # The weights are there already, and counted in what is predicted.
    own = torch.cuda.memory_allocated()
    free = free_memory(device) + own
    products = fp8_products(options, device, DTYPE, stream.preset.network)
    ring = kept_ring(options.kv_cache, stream.preset, device)
    storage = storage_of(stream.preset.network, DTYPE, ring, products)
    budget, estimate = int(cap * GIB) if cap else free, estimate_on(device, DTYPE, storage)
    tile = TileOptions((asked or "auto") if cap else "off")
    plan = choose_tiles(stream, tile, estimate, budget, "the GPU", lambda line: click.echo(line, err=True))
    if plan is None:
        parking, host, resident, predicted = "-", 0, 0, estimate(stream, None)
        bound_memory(device, predicted.total - own)
        reset_decoder(network)
        executor: Executor = TorchExecutor(network, stream, options)
    else:
        places = place_tiles(stream, plan, storage, budget)
        parking, host, resident, predicted = (
            places.parking.name,
            places.on_host,
            places.resident,
            places.needed,
        )
        bound_memory(device, predicted.total - own)
        tiles = TorchExecutor(network, plan.tile_stream(stream), options)
        executor = in_tiles(tiles, stream, plan, places.parking, places.resident)
    ms = time_run(executor, frames)
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    outside = total - free - torch.cuda.memory_reserved()
    sizes = (host, resident, predicted.total, reserved, torch.cuda.max_memory_allocated(), outside)
    host, resident, *sizes = (size / GIB for size in sizes)
    named = words(plan) if plan else "off", len(plan.tiles) if plan else 1, parking
    return Run(scene, cap, *named, host, resident, ms, *sizes)


def difference(network: Network, preset: str) -> dict[str, float | bool | list[float]]:
    """Whether rings that were parked come back bit for bit, and how far tiles and FP8 are from one piece."""
    geometry = Geometry(256, 400, 2)
    stream = StreamConfig(find_preset(preset), geometry, find_schedule("official"))
    plan, frames = TilePlan(geometry, (384, 512)), random_frames(stream, 73)
    made = {}
    for where in (None, "fp8", *Parking):
        options = TorchOptions(kv_cache="fp8" if where == "fp8" else "auto")
        executor: Executor = TorchExecutor(network, stream, options)
        if isinstance(where, Parking):
            tiles = TorchExecutor(network, plan.tile_stream(stream))
            executor = in_tiles(tiles, stream, plan, where)
        with Session(executor, overlap=True) as session:
            made[where] = np.concatenate([session.push(frames), session.flush()]).astype(np.int16)
        reset_decoder(network)
    sigmas = {where: worst_seam(made[where], plan) for where in (None, Parking.GPU)}
    return {
        "worst seam in sigmas, of tiles and of one piece": [sigmas[Parking.GPU], sigmas[None]],
        "parking on host and GPU agree": all(np.array_equal(made[p], made[Parking.GPU]) for p in Parking),
        "mean difference to one piece, in levels": float(np.abs(made[Parking.GPU] - made[None]).mean()),
        "PSNR of an FP8 ring to one of 16 bits, in dB": psnr(made[None], made["fp8"]),
    }


def reset_decoder(network: Network) -> None:
    """As it was before tiles ran: a network of one command has one kind of frames."""
    network.decoder.alone_pixels, network.decoder.band_pixels = ALONE_PIXELS, None


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
    of_reserved = f"{run.predicted / run.reserved:.3f}"
    cells = run.scene, run.cap or "none", run.tile, run.tiles, run.parking
    times = f"{run.ms_a_frame:.1f}", against
    sizes = (run.host, run.resident, run.predicted, run.reserved, run.allocated, run.outside)
    words_of_sizes = [f"{size:.2f}" for size in sizes]
    return f"| {' | '.join(map(str, (*cells, *times, *words_of_sizes, of_reserved)))} |"


HEADER = """
| LR frame | cap | tile | tiles | parking | ms | of one piece | host | stays | predicted | reserved | \
allocated | outside | predicted of reserved |
| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


@click.command()
@click.option("--scene", "scenes", type=SizeType(), multiple=True, default=["1280x720", "1920x1080"])
@click.option("--cap", "caps", type=float, multiple=True, default=[8.0, 12.0, 24.0], help="GiB.")
@click.option("--tile", "asked", type=SizeType(), help="Under every cap.  [default: as run --tile auto]")
@click.option("--preset", default=DEFAULT_PRESET, show_default=True)
@click.option(
    "--schedule",
    type=click.Choice([found.name for found in SCHEDULES]),
    default="official",
    show_default=True,
)
@click.option("--frames", type=click.IntRange(min=1), default=60, show_default=True, help="Timed ones.")
@click.option("--once", is_flag=True, help="Time one piece first and last alone, not between caps.")
@click.option("--kv-cache", type=click.Choice(KV_CACHES), default=KV_CACHES[0], show_default=True)
@click.option("--precision", type=click.Choice(DIT_PRECISIONS), default=DIT_PRECISIONS[0], show_default=True)
@click.option("--whole/--no-whole", default=True, help="Time frames in one piece as well.")
@click.option("--facts/--no-facts", default=True, help="Compare parking places and tiles with one piece.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(
    scenes,
    caps,
    asked,
    preset: str,
    schedule: str,
    frames: int,
    once: bool,
    kv_cache,
    precision,
    whole,
    facts,
    json_file,
) -> None:
    """Print the table; write JSON where asked."""
    device = require_gpu()
    # Before anything is loaded, as run does: what loading gives back is to be of use.
    bound_memory(torch.device("cuda"), free_memory(torch.device("cuda")))
    network = load_random(find_preset(preset).network, DTYPE, "cuda", precision)
    facts = difference(network, preset) if facts else {}
    options = TorchOptions(kv_cache=kv_cache, precision=precision)
    click.echo(f"{device}, torch {torch.__version__}, {preset}, {precision}, K/V {kv_cache}, 2x; {facts}")
    click.echo(HEADER)
    runs: list[Run] = []
    for height, width in scenes:
        stream = StreamConfig(find_preset(preset), Geometry(height, width, 2), find_schedule(schedule))
        whole_ms = None
        capped = (*caps, None) if once else (either for cap in caps for either in (cap, None))
        for cap in (None, *capped) if whole else caps:
            try:
                run = run_once(network, stream, f"{width}x{height}", cap, frames, options, asked)
            except (FlashVSRError, torch.OutOfMemoryError) as error:
                reason = " ".join(str(error).split())
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

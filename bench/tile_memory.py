"""What each stage of a tile takes of this GPU: bytes by size of the tile, and who holds them.

    python -m bench.tile_memory [--tile 768x512 ...] [--preset sparse-2.0] [--holders 768x512]

Stages run one after another on one stream, without CUDA graphs, as tiles do where memory is short.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from bench.gpu_timing import require_gpu
from bench.steady_stages import load_random, random_frames
from flashvsr_trt.cli.options import SizeType
from flashvsr_trt.config.presets import DEFAULT_PRESET, find_preset, find_schedule
from flashvsr_trt.config.rope import time_table
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import tile_geometry
from flashvsr_trt.memory import GIB
from flashvsr_trt.runtime.noise import latent_noise
from flashvsr_trt.runtime.request import TorchOptions
from flashvsr_trt.runtime.ring import KVRing
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.stage_memory import ALONE_PIXELS, BAND_PIXELS

DTYPE = torch.bfloat16
MIB = 2**20


def outside_torch() -> int:
    """Bytes of the GPU that are used and are not torch's: the context, libraries, and other processes."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


class Probe:
    """Peaks of calls over what was held before, in MiB."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def call(self, name: str, work: Callable, *args):
        """`work(*args)`, its peak, what it leaves, and its milliseconds."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        made = work(*args)
        torch.cuda.synchronize()
        ms = 1e3 * (time.perf_counter() - started)
        peak, after = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
        self.lines.append(f"{name} peak {peak / MIB:.1f} left {after / MIB:.1f} ({ms:.1f} ms)")
        return made


def holders(work: Callable[[], object], most: int = 14) -> list[str]:
    """The lines of code whose tensors are live when `work` has the most, with their MiB."""
    torch.cuda.synchronize()
    torch.cuda.memory._record_memory_history(max_entries=200_000, stacks="python")
    work()
    torch.cuda.synchronize()
    events = torch.cuda.memory._snapshot()["device_traces"][0]
    torch.cuda.memory._record_memory_history(enabled=None)
    live: dict[int, tuple[int, str]] = {}
    total = peak = 0
    at_peak: dict[int, tuple[int, str]] = {}
    for event in events:
        if event["action"] == "alloc":
            live[event["addr"]] = event["size"], _line_of(event["frames"])
            total += event["size"]
            if total > peak:
                peak, at_peak = total, dict(live)
        elif event["action"] == "free_completed" and event["addr"] in live:
            total -= live.pop(event["addr"])[0]
    by_line: Counter[str] = Counter()
    for size, line in at_peak.values():
        by_line[line] += size
    return [f"{size / MIB:8.1f} {line}" for line, size in by_line.most_common(most)]


def _line_of(frames: list[dict]) -> str:
    own = [f for f in frames if "/site-packages/" not in f["filename"] and f["filename"].endswith(".py")]
    return " < ".join(f"{Path(f['filename']).name}:{f['line']} {f['name']}" for f in own[:2]) or "?"


def stages(network, preset: str, schedule: str, tile: tuple[int, int], show_holders: bool) -> None:
    """Print one tile's stages."""
    stream = StreamConfig(find_preset(preset), tile_geometry(tile), find_schedule(schedule))
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    executor = TorchExecutor(network, stream, TorchOptions(cuda_graphs=False))
    executor.encoding = executor.decoding = None
    decoder = executor.decode_stage.decoder
    decoder.alone_pixels, decoder.band_pixels = min(ALONE_PIXELS, tile[0] * tile[1] // 4), BAND_PIXELS
    probe = Probe()
    state = probe.call("state", executor.new_state)
    frames, units = random_frames(stream, 8), stream.schedule.first_units
    ring = KVRing(stream.preset.attention)
    rope = lambda n: time_table(np.arange(2 * n), stream.preset.network.dit.head_dim)  # noqa: E731
    noise = np.stack([latent_noise(0, latent, stream.geometry.latent) for latent in range(2 * units)])
    conditions, tokens = zip(
        *(probe.call("encode", executor.encode, frames, n == 0, state) for n in range(units)), strict=True
    )
    latents = probe.call(
        f"dit{units}", executor.dit, noise, list(tokens), rope(units), ring.step(units), state
    )
    made = probe.call("decode", executor.start_decode, latents[0], conditions[0], state)
    made = probe.call("decode_tile", executor.decode_tile, latents[0], conditions[0], state)
    del conditions, tokens, latents, made
    for _ in range(4):
        condition, token = executor.encode(frames, False, state)
        executor.dit(noise[:2], [token], rope(1), ring.step(1), state)
    gc.collect()
    for _ in range(2):
        condition, token = probe.call("encode", executor.encode, frames, False, state)
        step = ring.step(1)
        (latent,) = probe.call("dit", executor.dit, noise[:2], [token], rope(1), step, state)
        probe.call("decode", executor.start_decode, latent, condition, state)
        probe.call("decode_tile", executor.decode_tile, latent, condition, state)
    click.echo(f"== {tile[1]}x{tile[0]} {schedule}, {tile[0] * tile[1]} pixels")
    for line in probe.lines:
        click.echo(f"  {line}")
    click.echo(
        f"  allocated {torch.cuda.memory_allocated() / GIB:.2f} GiB, reserved peak "
        f"{torch.cuda.max_memory_reserved() / GIB:.2f}, outside torch {outside_torch() / MIB:.0f} MiB"
    )
    if show_holders:
        works = {
            "encode": lambda: executor.encode(frames, False, state),
            "dit": lambda: executor.dit(noise[:2], [token], rope(1), ring.step(1), state),
            "decode_tile": lambda: executor.decode_tile(latent, condition, state),
            "decode": lambda: executor.start_decode(latent, condition, state),
        }
        for name, work in works.items():
            click.echo(f"  most held in {name}, MiB:")
            for line in holders(work):
                click.echo(f"    {line}")


def copy_speeds() -> str:
    """GB/s of pinned copies: to the GPU, from it, and both at once."""
    host = [torch.empty(2**29, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    device = [torch.empty(2**29, dtype=torch.uint8, device="cuda") for _ in range(2)]
    streams = [torch.cuda.Stream() for _ in range(2)]

    def timed(ways: tuple[int, ...]) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(4):
            for way in ways:
                source, target = (host, device) if way == 0 else (device, host)
                with torch.cuda.stream(streams[way]):
                    target[way].copy_(source[way], non_blocking=True)
        torch.cuda.synchronize()
        return 4 * len(ways) * 2**29 / (time.perf_counter() - started) / 1e9

    timed((0, 1))
    return f"to {timed((0,)):.1f}, from {timed((1,)):.1f}, both {timed((0, 1)):.1f} GB/s"


@click.command()
@click.option("--tile", "tiles", type=SizeType(), multiple=True)
@click.option("--holders", "held", type=SizeType(), multiple=True, help="Sizes to list the holders of.")
@click.option("--preset", default=DEFAULT_PRESET, show_default=True)
def main(tiles, held, preset: str) -> None:
    """Print sizes, stage by stage."""
    device = require_gpu()
    torch.cuda.init()
    click.echo(f"{device}, torch {torch.__version__}; outside torch {outside_torch() / MIB:.0f} MiB")
    network = load_random(find_preset(preset).network, DTYPE, "cuda")
    modules = network.projector, network.dit, network.decoder
    own = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for m in modules
        for t in m.state_dict().values()
    }
    gc.collect()
    click.echo(
        f"weights: allocated {torch.cuda.memory_allocated() / MIB:.0f} MiB, peak "
        f"{torch.cuda.max_memory_allocated() / MIB:.0f}, of which in modules {sum(own.values()) / MIB:.0f}; "
        f"outside torch {outside_torch() / MIB:.0f} MiB; copies {copy_speeds()}"
    )
    for tile in tiles or [(256, 256), (512, 512), (512, 768), (768, 896), (1024, 1280), (1536, 2560)]:
        for schedule in ("official", "low-latency"):
            stages(network, preset, schedule, tile, tile in held and schedule == "official")


if __name__ == "__main__":
    main()

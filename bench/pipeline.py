"""Milliseconds a chunk of 8 frames takes on this GPU, by stage and end to end, with random weights.

    python -m bench.pipeline [--scene WxH ...] [--preset sparse-2.0] [--precision fp8 ...] [--chunks 20]
                             [--json FILE] [--dry-run]

End to end is `Session.push` from frames in host memory to frames in host memory; stages are the device's own
time. On a CPU only --dry-run works: it counts the work and the memory, and times nothing.
"""

import gc
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch

from bench.gpu_timing import milliseconds_each, require_gpu
from bench.kernel_problems import SCENES
from bench.steady_stages import load_random, random_frames
from bench.unit_work import H200_TFLOPS, kept_blocks, unit_work
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.model.network import Network
from flashvsr_trt.runtime.request import DIT_PRECISIONS, TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.device_memory import check_memory, stream_memory
from flashvsr_trt.runtime.torch.executor import TorchExecutor

DTYPE = torch.bfloat16
CLIP_FRAMES = 81
WARM_UP_CHUNKS = 12
"""Past the first step, past the capture for each of the ring's slots, and some replays."""


@dataclass(frozen=True)
class Plan:
    """A scene before it is measured. Work in TFLOP by stage; the limit is all of it at H200_TFLOPS."""

    scene: str
    target: str
    tokens: int
    windows: int
    kept_blocks: int | None
    memory_gib: float
    tflop: dict[str, float]
    limit_ms: float


@dataclass(frozen=True)
class Timing:
    """A measured scene: milliseconds a chunk, peak memory reserved, and the operators a chunk called.

    `clip_fps` is of a new clip of CLIP_FRAMES frames, from its first push to its last frame.
    """

    scene: str
    precision: str
    cuda_graphs: bool
    stage_ms: dict[str, float]
    chunk_ms: float
    fps: float
    clip_fps: float
    of_limit: float
    peak_gib: float
    kernel_calls: dict[str, float]


def stream_for(scene: str, preset: str) -> StreamConfig:
    """An LR frame of SCENES upscaled 2x."""
    return StreamConfig(find_preset(preset), Geometry(*SCENES[scene], scale=2), find_schedule("official"))


def plan(scene: str, preset: str) -> Plan:
    """Sizes, memory and work: needs no GPU."""
    stream = stream_for(scene, preset)
    work = unit_work(stream)
    height, width = stream.geometry.target
    return Plan(
        scene=scene,
        target=f"{width}x{height}",
        tokens=stream.geometry.unit_tokens,
        windows=stream.geometry.unit_windows,
        kept_blocks=None if stream.preset.attention.sparse_ratio is None else kept_blocks(stream),
        memory_gib=stream_memory(stream, DTYPE).total / 2**30,
        tflop={stage: flop / 1e12 for stage, flop in asdict(work).items()},
        limit_ms=work.limit_ms,
    )


def time_scene(
    network: Network, stream: StreamConfig, planned: Plan, options: TorchOptions, chunks: int
) -> Timing:
    """`chunks` steady chunks after a warm-up."""
    torch.cuda.reset_peak_memory_stats()
    executor = TorchExecutor(network, stream, options)
    session = Session(executor, overlap=True)
    frames = random_frames(stream, UNIT_FRAMES)
    for _ in range(WARM_UP_CHUNKS):
        session.push(frames)
    seconds_before, calls_before = executor.stage_seconds(), executor.kernel_calls.copy()
    chunk_ms = milliseconds_each(partial(session.push, frames), chunks)
    seconds = executor.stage_seconds()
    del session
    return Timing(
        scene=planned.scene,
        precision=options.precision,
        cuda_graphs=executor.cuda_graphs,
        stage_ms={stage: 1e3 * (seconds[stage] - seconds_before[stage]) / chunks for stage in seconds},
        chunk_ms=chunk_ms,
        fps=1e3 * UNIT_FRAMES / chunk_ms,
        clip_fps=time_clip(executor),
        of_limit=planned.limit_ms / chunk_ms,
        peak_gib=torch.cuda.max_memory_reserved() / 2**30,
        kernel_calls={
            name: (count - calls_before[name]) / chunks for name, count in executor.kernel_calls.items()
        },
    )


def time_clip(executor: TorchExecutor) -> float:
    """Frames a second of a whole clip, bytes in host memory to bytes in host memory."""
    frames = random_frames(executor.stream, CLIP_FRAMES)
    torch.cuda.synchronize()
    started = time.perf_counter()
    session = Session(executor, overlap=True)
    made = sum(len(session.push(part)) for part in np.split(frames, range(8, CLIP_FRAMES, 8)))
    made += len(session.flush())
    seconds = time.perf_counter() - started
    if made != CLIP_FRAMES:
        raise RuntimeError(f"{made} frames came out of {CLIP_FRAMES}")
    return CLIP_FRAMES / seconds


def measure(
    scenes: Iterable[str],
    preset: str = DEFAULT_PRESET,
    chunks: int = 20,
    compiled: bool = False,
    precisions: Sequence[str] = DIT_PRECISIONS[:1],
) -> dict:
    """Every scene with and without CUDA graphs; one that does not fit this GPU is listed with the reason."""
    device = require_gpu()
    config = find_preset(preset).network
    networks = {precision: load_random(config, DTYPE, "cuda", precision) for precision in precisions}
    plans = [plan(scene, preset) for scene in scenes]
    timings, left_out = [], {}
    for planned in plans:
        stream = stream_for(planned.scene, preset)
        for graphs, (precision, network) in product((False, True), networks.items()):
            options = TorchOptions(compile=compiled, cuda_graphs=graphs, precision=precision)
            # What the last one held is free only when its cycles are collected.
            gc.collect()
            torch.cuda.empty_cache()
            try:
                check_memory(stream, torch.device("cuda"), DTYPE)
                timings.append(time_scene(network, stream, planned, options, chunks))
                # A run that is cut has shown what it measured until then.
                click.echo(timing_row(asdict(timings[-1])), err=True)
            except DeviceError as error:
                left_out[f"{planned.scene}, CUDA graphs {'on' if graphs else 'off'}"] = str(error)
    return {
        "device": device,
        "torch": torch.__version__,
        "preset": preset,
        "compile": compiled,
        "plans": [asdict(planned) for planned in plans],
        "timings": [asdict(timing) for timing in timings],
        "left_out": left_out,
    }


def plan_table(plans: Iterable[dict]) -> str:
    """What would be measured, as a Markdown table."""
    return "\n".join(
        [
            "| LR frame | target | tokens | windows | blocks a head | memory, GiB | encode, TFLOP "
            f"| dit | decode | ms at {H200_TFLOPS:.0f} TFLOP/s |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(
                f"| {row['scene']} | {row['target']} | {row['tokens']} | {row['windows']} "
                f"| {row['kept_blocks'] or 'all'} | {row['memory_gib']:.1f} "
                + "".join(f"| {row['tflop'][stage]:.1f} " for stage in ("encode", "dit", "decode"))
                + f"| {row['limit_ms']:.1f} |"
                for row in plans
            ),
        ]
    )


def timing_table(report: dict) -> str:
    """What was measured, as a Markdown table."""
    return "\n".join(_timing_lines(report))


def _timing_lines(report: dict) -> Iterator[str]:
    compiled = ", torch.compile" if report["compile"] else ""
    yield f"{report['device']}, torch {report['torch']}, {report['preset']}, bfloat16{compiled}; ms a chunk."
    yield ""
    yield (
        "| LR frame | precision | CUDA graphs | encode | dit | decode | end to end | FPS | of the limit "
        f"| FPS, {CLIP_FRAMES} frames | peak, GiB | attention |"
    )
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    yield from map(timing_row, report["timings"])
    for scene, reason in report["left_out"].items():
        yield f"\n{scene} was left out: {reason}"


def timing_row(row: dict) -> str:
    """One line of the table."""
    stages = "".join(f"| {row['stage_ms'][stage]:.1f} " for stage in ("encode", "dit", "decode"))
    attention = [name for name in row["kernel_calls"] if "attention" in name]
    precision = "bfloat16" if row["precision"] == DIT_PRECISIONS[0] else row["precision"]
    return (
        f"| {row['scene']} | {precision} | {'on' if row['cuda_graphs'] else 'off'} {stages}"
        f"| {row['chunk_ms']:.1f} | {row['fps']:.1f} | {row['of_limit']:.0%} | {row['clip_fps']:.1f} "
        f"| {row['peak_gib']:.1f} | {', '.join(attention)} |"
    )


@click.command()
@click.option("--scene", "scenes", multiple=True, type=click.Choice(list(SCENES)), help="LR frame.")
@click.option("--preset", default=DEFAULT_PRESET, show_default=True)
@click.option("--precision", "precisions", multiple=True, type=click.Choice(DIT_PRECISIONS), help="In turn.")
@click.option("--chunks", type=click.IntRange(min=1), default=20, show_default=True, help="Timed ones.")
@click.option("--compile", "compiled", is_flag=True, help="As in `flashvsr-trt run --compile`.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--dry-run", is_flag=True, help="Print sizes, memory and work; time nothing.")
def main(
    scenes: tuple[str, ...],
    preset: str,
    precisions: tuple[str, ...],
    chunks: int,
    compiled: bool,
    json_file: Path | None,
    dry_run: bool,
) -> None:
    """Print the table; write JSON where asked."""
    chosen = scenes or tuple(SCENES)
    if dry_run:
        report = {"preset": preset, "plans": [asdict(plan(scene, preset)) for scene in chosen]}
        click.echo(plan_table(report["plans"]))
    else:
        report = measure(chosen, preset, chunks, compiled, precisions or DIT_PRECISIONS[:1])
        click.echo(timing_table(report))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Where a steady chunk's device time goes, kernel by kernel: python -m bench.profile_stages [--scene WxH].

Each stage is called alone, so that a kernel's time belongs to it. CUDA graphs are off: names stay visible.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.gpu_timing import require_gpu
from bench.kernel_problems import SCENES
from bench.pipeline import load_random, stream_for
from flashvsr_trt.presets import DEFAULT_PRESET, UNIT_FRAMES
from flashvsr_trt.rope import time_table
from flashvsr_trt.runtime.backends import TorchOptions
from flashvsr_trt.runtime.noise import latent_noise
from flashvsr_trt.runtime.ring import KVRing
from flashvsr_trt.runtime.torch_executor import TorchExecutor

CALLS = 3


@dataclass(frozen=True)
class KernelTime:
    """Milliseconds and launches a chunk of one GPU kernel within one stage."""

    stage: str
    kernel: str
    milliseconds: float
    launches: float


def stage_calls(executor: TorchExecutor) -> dict[str, Callable[[], object]]:
    """The three stages of a steady step, each to be called alone any number of times."""
    stream = executor.stream
    geometry = stream.geometry
    shape = (UNIT_FRAMES, geometry.height, geometry.width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    state, ring = executor.new_state(), KVRing(stream.preset.attention)
    noise = np.stack([latent_noise(0, latent, geometry.latent) for latent in range(2)])
    rope = time_table(np.arange(2), stream.preset.network.dit.head_dim)
    condition, tokens = executor.encode(frames, True, state)
    for _ in range(stream.preset.attention.ring_slots + 1):
        (latent,) = executor.dit(noise, [tokens], rope, ring.step(1), state)
    return {
        "encode": lambda: executor.encode(frames, False, state),
        "dit": lambda: executor.dit(noise, [tokens], rope, ring.step(1), state),
        "decode": lambda: executor.decode(latent, condition, state),
    }


def kernel_times(stage: str, call: Callable[[], object]) -> list[KernelTime]:
    """The longest first."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    times = [
        KernelTime(stage, entry.key, entry.self_device_time_total / CALLS / 1e3, entry.count / CALLS)
        for entry in recorded.key_averages()
        if entry.device_type == DeviceType.CUDA
    ]
    return sorted(times, key=lambda entry: -entry.milliseconds)


def table(times: list[KernelTime], longest: int) -> str:
    """The longest kernels of each stage as a Markdown table."""
    lines = ["| stage | ms | launches | kernel |", "| --- | ---: | ---: | --- |"]
    for stage in dict.fromkeys(entry.stage for entry in times):
        entries = [entry for entry in times if entry.stage == stage]
        total, launches = (sum(getattr(e, name) for e in entries) for name in ("milliseconds", "launches"))
        lines.append(f"| **{stage}** | {total:.2f} | {launches:.0f} | all |")
        lines += [
            f"| {stage} | {entry.milliseconds:.2f} | {entry.launches:.0f} | `{entry.kernel[:110]}` |"
            for entry in entries[:longest]
        ]
    return "\n".join(lines)


@click.command()
@click.option("--scene", type=click.Choice(list(SCENES)), default="704x384", show_default=True)
@click.option("--preset", default=DEFAULT_PRESET, show_default=True)
@click.option("--longest", default=16, show_default=True, help="Kernels to show of each stage.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all of them to this file.")
def main(scene: str, preset: str, longest: int, json_file: Path | None) -> None:
    """Print the longest kernels of each stage."""
    device = require_gpu()
    executor = TorchExecutor(load_random(preset), stream_for(scene, preset), TorchOptions(cuda_graphs=False))
    times = [entry for stage, call in stage_calls(executor).items() for entry in kernel_times(stage, call)]
    click.echo(f"{device}, torch {torch.__version__}, {preset}, LR frame {scene}, bfloat16; a chunk:\n")
    click.echo(table(times, longest))
    if json_file:
        json_file.write_text(json.dumps([asdict(entry) for entry in times], indent=1) + "\n")


if __name__ == "__main__":
    main()

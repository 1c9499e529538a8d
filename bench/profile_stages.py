"""Where a steady chunk's device time goes, kernel by kernel: python -m bench.profile_stages [--scene WxH].

Each stage is called alone, so that a kernel's time belongs to it. CUDA graphs are off: names stay visible.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.gpu_timing import require_gpu
from bench.kernel_problems import SCENES
from bench.pipeline import DTYPE, stream_for
from bench.steady_stages import SteadyStages, load_random
from flashvsr_trt.config.presets import DEFAULT_PRESET, find_preset
from flashvsr_trt.config.signatures import DECODE, DIT, ENCODE
from flashvsr_trt.runtime.request import DIT_PRECISIONS, TorchOptions
from flashvsr_trt.runtime.torch.executor import TorchExecutor

CALLS = 3
STAGES = (ENCODE, DIT, DECODE)


@dataclass(frozen=True)
class KernelTime:
    """Milliseconds and launches a chunk of one GPU kernel within one stage."""

    stage: str
    kernel: str
    milliseconds: float
    launches: float


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
@click.option("--precision", type=click.Choice(DIT_PRECISIONS), default=DIT_PRECISIONS[0], show_default=True)
@click.option("--longest", default=16, show_default=True, help="Kernels to show of each stage.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all of them to this file.")
def main(scene: str, preset: str, precision: str, longest: int, json_file: Path | None) -> None:
    """Print the longest kernels of each stage."""
    device = require_gpu()
    network = load_random(find_preset(preset).network, DTYPE, "cuda", precision)
    stages = SteadyStages(TorchExecutor(network, stream_for(scene, preset), TorchOptions(cuda_graphs=False)))
    times = [entry for stage in STAGES for entry in kernel_times(stage, getattr(stages, stage))]
    click.echo(f"{device}, torch {torch.__version__}, {preset}, LR frame {scene}, bfloat16; a chunk:\n")
    click.echo(table(times, longest))
    if json_file:
        json_file.write_text(json.dumps([asdict(entry) for entry in times], indent=1) + "\n")


if __name__ == "__main__":
    main()

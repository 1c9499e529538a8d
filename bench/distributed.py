"""How the work of a chunk spreads over ranks: time, scaling, bytes moved and memory.

    python -m bench.distributed [--ranks 1,2,4] [--preset full-attn] [--size 640x384] [--device cpu]

One rank is the ordinary single-process executor, so that efficiency is against the fastest there is without
the others. With --device cpu every rank has one thread and they share this machine's cores: bytes and state
are those of any device, times and efficiency show that the benchmark runs and say nothing of GPUs. The report
says so.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from bench.distributed_job import measured_stream
from bench.environment import ROOT, environment
from flashvsr_trt.cli.option_types import SizeType
from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.runtime.distributed.group import check_gpus

CPU_NOTE = "measured on CPU ranks of one thread that share cores: times and efficiency are not those of GPUs"

HEADER = "ranks   ms/chunk      FPS  eff.   MB/chunk  state MiB   peak MiB  device"
"""Bytes sent by all ranks together; memory of the rank that has most."""


def run_job(ranks: int, device: str, arguments: tuple[str, ...]) -> dict:
    """Measure on `ranks` ranks. Raises ClickException with what the job printed if it failed."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
    # Or a single process would have all cores, and each of several ranks one.
    threads = {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}
    job = subprocess.run(
        (*launcher, "-m", "bench.distributed_job", *arguments),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | threads,
        capture_output=True,
        text=True,
        check=False,
    )
    if job.returncode:
        raise click.ClickException(f"the job of {ranks} ranks failed:\n{job.stderr}")
    return json.loads(job.stdout.splitlines()[-1])


def summary(ranks: int, job: dict, single_ms: float | None) -> dict:
    """A row of the report; efficiency is the speed-up over one rank by the number of ranks."""
    milliseconds = job["ms_per_chunk"]
    return {
        "ranks": ranks,
        "device": job["executor"]["device"],
        "ms_per_chunk": milliseconds,
        "fps": 1000 * UNIT_FRAMES / milliseconds,
        "efficiency": single_ms / (milliseconds * ranks) if single_ms else None,
        "bytes_per_chunk": job["bytes_per_chunk"],
        "total_bytes_per_chunk": sum(job["bytes_per_chunk"].values()),
        "state_bytes_per_rank": [rank["state_bytes"] for rank in job["ranks"]],
        "peak_bytes_per_rank": [rank["peak_bytes"] for rank in job["ranks"]],
    }


def line(row: dict) -> str:
    """A row as text; what several ranks send and keep is below it, by kind and by rank."""
    efficiency = f"{row['efficiency']:5.0%}" if row["efficiency"] else "    -"
    states, peaks = ([count / 2**20 for count in row[f"{kind}_bytes_per_rank"]] for kind in ("state", "peak"))
    text = (
        f"{row['ranks']:5} {row['ms_per_chunk']:10.1f} {row['fps']:8.2f} {efficiency} "
        f"{row['total_bytes_per_chunk'] / 1e6:10.1f} {max(states):10.1f} {max(peaks):10.0f}  {row['device']}"
    )
    if row["ranks"] == 1:
        return text
    kinds = sorted(row["bytes_per_chunk"].items(), key=lambda item: -item[1])
    moved = ", ".join(f"{kind} {count / 1e6:.3g}" for kind, count in kinds)
    return (
        f"{text}\n      MB/chunk: {moved}"
        f"\n      state MiB by rank: {', '.join(f'{state:.1f}' for state in states)}"
        f"\n      peak MiB by rank: {', '.join(f'{peak:.0f}' for peak in peaks)}"
    )


def rank_counts(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """`1,2,4` as numbers. Raises BadParameter."""
    if not all(count.isdecimal() and int(count) for count in value.split(",")):
        raise click.BadParameter(f"'{value}' is no list of numbers of ranks; write them as 1,2,4")
    return [int(count) for count in value.split(",")]


@click.command()
@click.option("--ranks", default="1,2,4", callback=rank_counts, show_default=True, help="Numbers of ranks.")
@click.option("--preset", default="full-attn", show_default=True)
@click.option("--size", "size", type=SizeType(), default="640x384", show_default=True, help="LR frame.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option(
    "--chunks", type=click.IntRange(min=1), default=20, show_default=True, help="Measured, after warming up."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the report.")
def main(
    ranks: list[int],
    preset: str,
    size: tuple[int, int],
    device: str,
    dtype: str,
    chunks: int,
    json_file: Path | None,
) -> None:
    """Measure each number of ranks in turn."""
    try:
        stream = measured_stream(preset, size)
        for count in ranks:
            Sharding(stream, count)
        if device == "cuda":
            check_gpus(max(ranks))
    except FlashVSRError as error:
        raise click.UsageError(str(error)) from error
    height, width = size
    scene = f"{width}x{height}"
    if device == "cpu":
        click.echo(CPU_NOTE)
    click.echo(f"{preset}, {scene} 2x, {chunks} chunks\n{HEADER}")
    rows, single = [], None
    for count in ranks:
        job = run_job(count, device, (preset, scene, device, dtype, str(chunks)))
        single = job["ms_per_chunk"] if count == 1 else single
        rows.append(summary(count, job, single))
        click.echo(line(rows[-1]))
    if json_file:
        report = {
            "device": device,
            "preset": preset,
            "size": scene,
            "chunks": chunks,
            "rows": rows,
            "environment": environment(),
        }
        note = {"note": CPU_NOTE} if device == "cpu" else {}
        json_file.write_text(json.dumps(report | note, indent=2) + "\n")


if __name__ == "__main__":
    main()

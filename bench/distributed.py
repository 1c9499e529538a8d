"""How the work of a chunk spreads over ranks: time, scaling, bytes moved, memory, and where the time goes.

    python -m bench.distributed [--ranks 1,2,4] [--preset full-attn,sparse-2.0] [--size 1280x704,1920x1080]
        [--chunk 8,16] [--profile] [--out FOLDER] [--device cpu]

Every number of ranks is measured for every preset, size and chunk; for each preset its ranks start once. One
rank is the single-process executor at its best: as `run` has it, with its stages overlapped and replayed as
CUDA graphs. A job that fails is listed with its error, and the others go on.

With --device cpu every rank has one thread and they share this machine's cores: bytes and state are those of
any device, times and efficiency show that the benchmark runs and say nothing of GPUs. The report says so.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from threading import Timer
from typing import TextIO

import click

from bench.distributed_job import Job
from bench.environment import ROOT, environment
from bench.rank_profile import profile_table
from flashvsr_trt.cli.options import SizeType
from flashvsr_trt.config.presets import CHUNK_SIZES
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.runtime.distributed.group import check_gpus

CPU_NOTE = "measured on CPU ranks of one thread that share cores: times and efficiency are not those of GPUs"

HEADER = (
    "ranks LR frame  chunk   ms/chunk  of one      FPS  eff.   MB/chunk  state MiB   peak MiB  of one  device"
)
"""`of one`: by what one rank takes. Bytes sent by all ranks together; memory of the rank that has most."""


def run_jobs(ranks: int, jobs: Sequence[Job], seconds: int) -> Iterator[dict]:
    """Measure all of them, which have one preset, on `ranks` ranks that are started once.

    A job that fails or takes longer than `seconds` is {"error": ...}; ranks are then started for the rest.
    """
    left = list(jobs)
    while left:
        with tempfile.TemporaryFile("w+") as errors:
            process = start(ranks, left, errors)
            alive = True
            try:
                while alive and left:
                    limit = Timer(seconds, process.terminate)
                    limit.start()
                    printed = process.stdout.readline()
                    in_time = limit.is_alive()
                    limit.cancel()
                    left.pop(0)
                    alive = bool(printed)
                    if alive:
                        yield json.loads(printed)
                process.wait()
            finally:
                # The launcher ends its ranks: those that outlive a benchmark would share the next one's GPUs.
                process.terminate()
                process.wait()
                process.stdout.close()
            errors.seek(0)
            if not alive:
                yield {"error": ("" if in_time else f"not done after {seconds} seconds\n") + errors.read()}


def start(ranks: int, jobs: Sequence[Job], errors: TextIO) -> subprocess.Popen:
    """`bench.distributed_job` by torchrun."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
    # Or a single process would have all cores, and each of several ranks one.
    threads = {"OMP_NUM_THREADS": "1"} if jobs[0].device == "cpu" else {}
    return subprocess.Popen(
        (*launcher, "-m", "bench.distributed_job", json.dumps([asdict(job) for job in jobs])),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | threads,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def summary(ranks: int, job: Job, made: dict, single: dict | None) -> dict:
    """A row of the report; efficiency is the speed-up over one rank by the number of ranks."""
    row = {"ranks": ranks, "preset": job.preset, "size": job.scene, "chunk": job.chunk}
    if "error" in made:
        return row | made
    milliseconds = made["ms_per_chunk"]
    peaks = [rank["peak_bytes"] for rank in made["ranks"]]
    return row | {
        "device": made["executor"]["device"],
        "cuda_graphs": made["executor"]["cuda_graphs"],
        "ms_per_chunk": milliseconds,
        "of_one": milliseconds / single["ms_per_chunk"] if single else None,
        "fps": 1000 * job.chunk / milliseconds,
        "efficiency": single["ms_per_chunk"] / (milliseconds * ranks) if single else None,
        "bytes_per_chunk": made["bytes_per_chunk"],
        "total_bytes_per_chunk": sum(made["bytes_per_chunk"].values()),
        "stage_ms_per_rank": [rank["stage_ms"] for rank in made["ranks"]],
        "state_bytes_per_rank": [rank["state_bytes"] for rank in made["ranks"]],
        "peak_bytes_per_rank": peaks,
        "peak_of_one": max(peaks) / max(single["peak_bytes_per_rank"]) if single else None,
        "kernel_calls": made["executor"]["kernel_calls"],
        "profile": made.get("profile"),
    }


def line(row: dict) -> str:
    """A row as text; what several ranks send and keep is below it, by kind and by rank."""
    if "error" in row:
        return f"{row['ranks']:5} {row['size']:9} {row['chunk']:5} failed:\n{row['error']}"
    of_one, peak_of_one = (
        f"{row[name]:7.2f}" if row[name] else "      -" for name in ("of_one", "peak_of_one")
    )
    efficiency = f"{row['efficiency']:5.0%}" if row["efficiency"] else "    -"
    states, peaks = ([count / 2**20 for count in row[f"{kind}_bytes_per_rank"]] for kind in ("state", "peak"))
    stages = "; ".join(
        ", ".join(f"{stage} {ms:.1f}" for stage, ms in rank.items()) for rank in row["stage_ms_per_rank"]
    )
    text = (
        f"{row['ranks']:5} {row['size']:9} {row['chunk']:5} {row['ms_per_chunk']:10.1f} {of_one} "
        f"{row['fps']:8.2f} {efficiency} "
        f"{row['total_bytes_per_chunk'] / 1e6:10.1f} {max(states):10.1f} {max(peaks):10.0f} {peak_of_one}  "
        f"{row['device']}\n      ms of stages by rank: {stages}"
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


def listed(convert: Callable[[str], object], what: str) -> Callable:
    """A callback for an option of several values, separated by commas. Raises BadParameter."""

    def split(context: click.Context, parameter: click.Parameter, value: str) -> list:
        try:
            return [convert(part) for part in value.split(",")]
        except ValueError as error:
            raise click.BadParameter(f"'{value}' is no list of {what}") from error

    return split


def count(text: str) -> int:
    """A number of ranks. Raises ValueError."""
    if not text.isdecimal() or not int(text):
        raise ValueError(text)
    return int(text)


def chunk_size(text: str) -> int:
    """One of CHUNK_SIZES. Raises ValueError."""
    return CHUNK_SIZES[CHUNK_SIZES.index(int(text))]


def frame_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as height and width. Raises BadParameter."""
    return SizeType().convert(text, None, None)


def check(ranks: Sequence[int], jobs: Sequence[Job], device: str) -> None:
    """Raises UsageError for what no job could measure."""
    try:
        for job, size in product(jobs, ranks):
            Sharding(job.stream, size)
        if device == "cuda":
            check_gpus(max(ranks))
    except FlashVSRError as error:
        raise click.UsageError(str(error)) from error


@click.command()
@click.option("--ranks", default="1,2,4", callback=listed(count, "numbers of ranks"), show_default=True)
@click.option("--preset", "presets", default="full-attn", callback=listed(str, "presets"), show_default=True)
@click.option("--size", "sizes", default="640x384", callback=listed(frame_size, "sizes"), help="LR frames.")
@click.option(
    "--chunk", "chunk_sizes", default="8", callback=listed(chunk_size, "chunk sizes"), help="8, 16."
)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--cuda-graphs/--no-cuda-graphs", default=None, help="As in `flashvsr-trt run`.")
@click.option(
    "--chunks", type=click.IntRange(min=1), default=20, show_default=True, help="Measured, after warming up."
)
@click.option("--profile", is_flag=True, help="Record rank 0's kernels as well, after measuring.")
@click.option("--seconds", type=click.IntRange(min=1), default=300, show_default=True, help="For each job.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for report and profiles."
)
def main(
    ranks: list[int],
    presets: list[str],
    sizes: list[tuple[int, int]],
    chunk_sizes: list[int],
    device: str,
    dtype: str,
    cuda_graphs: bool | None,
    chunks: int,
    profile: bool,
    seconds: int,
    out: Path | None,
) -> None:
    """Measure each number of ranks in turn."""
    jobs = [
        Job(preset, size, chunk, device, dtype, chunks, cuda_graphs, profile)
        for preset, size, chunk in product(presets, sizes, chunk_sizes)
    ]
    check(ranks, jobs, device)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if device == "cpu":
        click.echo(CPU_NOTE)
    rows: list[dict] = []
    singles: dict[Job, dict] = {}
    for preset, size in product(presets, ranks):
        alike = [job for job in jobs if job.preset == preset]
        click.echo(f"{preset}, 2x, {chunks} chunks\n{HEADER}")
        for job, made in zip(alike, run_jobs(size, alike, seconds), strict=True):
            rows.append(summary(size, job, made, singles.get(job)))
            if size == 1 and "error" not in made:
                singles[job] = rows[-1]
                rows[-1] |= {"of_one": 1.0, "efficiency": 1.0, "peak_of_one": 1.0}
            click.echo(line(rows[-1]))
            if out:
                # After each job: a call that is cut has shown what it measured until then.
                write(out, rows, device, chunks)
    if any("error" in row for row in rows):
        raise SystemExit(1)


def write(out: Path, rows: list[dict], device: str, chunks: int) -> None:
    """The report so far, and the newest job's profile."""
    out.mkdir(parents=True, exist_ok=True)
    note = {"note": CPU_NOTE} if device == "cpu" else {}
    report = {"device": device, "chunks": chunks, "rows": rows, "environment": environment()}
    (out / "report.json").write_text(json.dumps(report | note, indent=2) + "\n")
    row = rows[-1]
    if row.get("profile"):
        name = f"{row['preset']}_{row['size']}_{row['chunk']}_{row['ranks']}_ranks.txt"
        (out / name).write_text(profile_table(row["profile"]))


if __name__ == "__main__":
    main()

"""Engines on this GPU beside torch, in one run: frames, ring, waits, time and memory.

    python -m bench.engine_report [--flavour onnxruntime] [--preset nano ...] [--size 640x384] [-o DIR]

For each preset, in a process of its own, the same frames go through engines, with CUDA graphs and without,
and through torch in the engines' dtype, then graph by graph; last `flashvsr-trt run` makes a clip with them.
After every part `engine_report.PRESET.json` is written anew, after every preset `engine_report.json` and
`engine_report.md`: a part that fails, or a run that is ended, loses nothing that was measured before it. Ends
with status 1 if a part or a check failed. Weights are random. `--dry-run` goes through all of it on a CPU,
with doubles of the GPU and small frames: what it times means nothing.

On a machine without a network that takes some 60 MB at a time:

    python -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels \\
        --platform manylinux_2_28_x86_64 onnxruntime-gpu==1.31.1 av click filelock platformdirs onnx \\
        onnx-ir onnxscript ml-dtypes cuda-python cuda-bindings cuda-pathfinder rich safetensors psutil \\
        huggingface_hub
    python -m bench.wheel_parts split wheels parts --megabytes 40    # here: parts/00, parts/01, ...
    python3 bench/wheel_parts.py take parts/00 /tmp/wheels           # there, once for each part, in any order
    python3 bench/wheel_parts.py join /tmp/wheels                    # there: whole wheels, by their checksums
    python3 -m pip install --no-index --no-deps --target /tmp/site /tmp/wheels/*.whl
    PYTHONPATH=/tmp/site:. FLASHVSR_CACHE=/tmp/cache python3 -m bench.engine_report -o OUT

Torch, Triton and CUDA's libraries are there already; `flashvsr-trt doctor` names what else is missing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.counted_calls import build_counter
from bench.engine_parts import WEIGHTS, Extent, measure_preset, say
from bench.engine_tables import markdown, write_report
from bench.moving_clip import moving_frames, write_clip
from flashvsr_trt.cli.options import SizeType
from flashvsr_trt.config.presets import DEFAULT_PRESET
from flashvsr_trt.engines.flavours import FLAVOURS, ONNXRUNTIME
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import ExecutorRequest

COMMAND_FRAMES, DRY_FRAMES = 61, 13
"""Of the clip that `flashvsr-trt run` makes."""

DRY_EXTENT, DRY_SIZE, DRY_PRESETS = Extent(8, 2, 1, 1, 3), "64x64", ("nano-full-attn",)


def run_command(preset: str, flavour: str, frames: np.ndarray, dry_run: bool) -> dict[str, Any]:
    """`flashvsr-trt run`, which exports and builds what is missing: its report, and its seconds in all."""
    backend = ["onnxruntime"] if dry_run else ["tensorrt", "--flavour", flavour]
    with tempfile.TemporaryDirectory() as folder:
        clip, output = Path(folder, "clip.mp4"), Path(folder, "clip_2x.mp4")
        write_clip(frames, clip)
        command = [sys.executable, "-m", "flashvsr_trt", "--debug", "run", str(clip), "-o", str(output)]
        command += ["--preset", preset, "--weights", WEIGHTS, "--backend", *backend, "--json", "-"]
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - started
        # Without the folder, which is gone when the report is read.
        report = json.loads(done.stdout.replace(f"{folder}/", "")) if done.returncode == 0 else None
        command = [part.replace(f"{folder}/", "") for part in command[2:]]
        return {"command": command, "status": done.returncode, "seconds": seconds, "report": report}


def open_engines(request: ExecutorRequest, device: Any) -> Any:
    """The tensorrt backend on a device that counts."""
    from flashvsr_trt.runtime.tensorrt import open as tensorrt_open

    tensorrt_open.CudaDevice = lambda index: device
    return open_executor("tensorrt", request, say)


def measure(preset: str, size: tuple[int, int], flavour: str, path: Path, dry_run: bool) -> None:
    """One preset, in this process."""
    precision = FLAVOURS[flavour].precisions[0]
    if dry_run:
        from tests.runtime.dry_engines import DRY_PRECISION, CountingHost, open_dry_engines

        device, precision = CountingHost(), DRY_PRECISION
        measure_preset(
            preset, size, flavour, precision, DRY_EXTENT, device, open_dry_engines, path, dry_run=True
        )
        return
    from bench.counted_calls import CountingDevice

    measure_preset(preset, size, flavour, precision, Extent(), CountingDevice(), open_engines, path)


def measure_apart(
    preset: str, named: str, flavour: str, path: Path, preload: str | None, dry_run: bool
) -> dict[str, Any]:
    """One preset in a process of its own: what it wrote, whatever became of it."""
    again = [sys.executable, "-m", "bench.engine_report", "--flavour", flavour, "--preset", preset]
    again += ["--size", named, "--measure", str(path), *(["--dry-run"] if dry_run else [])]
    path.unlink(missing_ok=True)
    environment = os.environ | ({"LD_PRELOAD": preload} if preload else {})
    done = subprocess.run(again, env=environment, check=False)
    row = json.loads(path.read_text()) if path.exists() else {"preset": preset, "checks": {}, "failed": {}}
    if done.returncode:
        row["failed"]["process"] = f"it ended with status {done.returncode}; see the log"
    return row


def holds(row: dict[str, Any]) -> bool:
    """Whether all of a preset ran and every check held."""
    return bool(row["checks"]) and all(row["checks"].values()) and not row["failed"]


@click.command()
@click.option("--flavour", type=click.Choice(list(FLAVOURS)), default=ONNXRUNTIME.name, show_default=True)
@click.option("--preset", "presets", multiple=True, help=f"[default: nano and {DEFAULT_PRESET}]")
@click.option("--size", type=SizeType(), help="Of the frames that go in.  [default: 640x384]")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("."), show_default=True)
@click.option("--dry-run", is_flag=True, help="All of it on this CPU, with doubles of the GPU.")
@click.option("--measure", "part", hidden=True, type=click.Path(path_type=Path), help="One preset, in here.")
def main(
    flavour: str,
    presets: tuple[str, ...],
    size: tuple[int, int] | None,
    output: Path,
    dry_run: bool,
    part: Path | None,
) -> None:
    """Run, compare and time engines on this GPU."""
    presets = presets or (DRY_PRESETS if dry_run else ("nano", DEFAULT_PRESET))
    named = "x".join(map(str, size[::-1])) if size else (DRY_SIZE if dry_run else "640x384")
    width, height = map(int, named.split("x"))
    if part:
        measure(presets[0], (width, height), flavour, part, dry_run)
        return
    from bench.environment import environment

    output.mkdir(parents=True, exist_ok=True)
    report = {
        "environment": environment(),
        "flavour": flavour,
        "size": named,
        "dry_run": dry_run,
        "presets": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            preload = str(build_counter(Path(folder)))
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"calls of CUDA's runtime are not counted: {error}")
            preload = None
        clip = moving_frames(width, height, DRY_FRAMES if dry_run else COMMAND_FRAMES)
        for preset in presets:
            path = output / f"engine_report.{preset}.json"
            row = measure_apart(preset, named, flavour, path, preload, dry_run)
            report["presets"].append(row)
            write_report(report, output)
            row["command"] = run_command(preset, flavour, clip, dry_run)
            if row["command"]["status"]:
                row["failed"]["command"] = f"it ended with status {row['command']['status']}; see the log"
            write_report(report, output)
    say(markdown(report))
    sys.exit(0 if all(map(holds, report["presets"])) else 1)


if __name__ == "__main__":
    main()

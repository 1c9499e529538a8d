"""`flashvsr-trt bench`: how fast a stream runs here, told as trtexec tells it."""

import json
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

import click

from flashvsr_trt import __version__
from flashvsr_trt.cli.commands import Command
from flashvsr_trt.cli.display import say
from flashvsr_trt.cli.options import COUNT, EXECUTOR_OPTIONS, JSON, FiniteType, SizeType
from flashvsr_trt.errors import BenchError, UsageError
from flashvsr_trt.runtime.request import take_precision

PERCENTILES = (50, 90, 95, 99)


@click.command(cls=Command)
@EXECUTOR_OPTIONS
@click.option("--size", type=SizeType(), default="1280x768", help="Of the upscaled frame.")
@click.option("--warm-up", type=click.IntRange(0, 10**6), default=4, help="Chunks before.")
@click.option("--iterations", type=COUNT, default=20, help="Chunks that are timed.")
@click.option("--least-fps", type=FiniteType(), help="FAILED, and exit code 1, where it is slower than this.")
@JSON
@click.pass_obj
def bench(
    arguments: Sequence[str],
    size: tuple[int, int],
    warm_up: int,
    iterations: int,
    least_fps: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Time a stream of noise, chunk by chunk, and how many frames a second come out. Reads no video."""
    from flashvsr_trt.runtime.bench import percentile, time_session
    from flashvsr_trt.runtime.executors import Executors
    from flashvsr_trt.runtime.request import UpscaleOptions

    command = f"flashvsr-trt [v{__version__}] # {shlex.join(['flashvsr-trt', *arguments])}"
    if not as_json:
        click.echo(f"&&&& RUNNING {command}")
    options = take_precision(options)
    height, width = (side // options["scale"] for side in size)
    if (nearest := (height * options["scale"], width * options["scale"])) != size:
        raise UsageError(
            f"--size {size[1]}x{size[0]} is not {options['scale']} times the size of a frame; "
            f"the nearest is {nearest[1]}x{nearest[0]}"
        )
    executor = Executors(say).open(UpscaleOptions(**options), height, width)
    timing = time_session(executor, options["chunk_size"], warm_up, iterations)
    milliseconds = [1000 * seconds for seconds in timing.chunks]
    by_percent = {percent: percentile(milliseconds, percent) for percent in PERCENTILES}
    passed = least_fps is None or timing.fps >= least_fps
    if as_json:
        facts = {"command": command, "executor": executor.describe(), "fps": timing.fps, "passed": passed}
        chunk = {"milliseconds": milliseconds, "percentiles": by_percent, "stages": timing.stages}
        click.echo(json.dumps(facts | {"first_frames_seconds": timing.first, "chunk": chunk}, indent=2))
    else:
        about = executor.describe()
        click.echo(
            f"{about['backend']} on {about['device']}, {about['dtype']}: {width}x{height} to "
            f"{size[1]}x{size[0]}, {options['preset']}, {options['schedule']}"
        )
        click.echo("=== Performance summary ===")
        click.echo(
            f"Throughput: {timing.fps:.2f} FPS ({iterations} chunks of {options['chunk_size']} frames)"
        )
        shown = ", ".join(f"percentile({percent}%) = {value:.2f} ms" for percent, value in by_percent.items())
        click.echo(
            f"Latency of a chunk: min = {min(milliseconds):.2f} ms, max = {max(milliseconds):.2f} ms, "
            f"mean = {statistics.mean(milliseconds):.2f} ms, {shown}"
        )
        stages = ", ".join(f"{name} = {1000 * seconds:.2f} ms" for name, seconds in timing.stages.items())
        click.echo(f"Stages of a chunk: {stages}")
        click.echo(f"First frames: {1000 * timing.first:.2f} ms after the first frame went in")
        click.echo(f"&&&& {'PASSED' if passed else 'FAILED'} {command}")
    if not passed:
        raise BenchError(f"{timing.fps:.2f} FPS, and --least-fps is {least_fps:g}")

"""One video file to another: input, executor, session, output, report."""

import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np

from flashvsr_trt import __version__
from flashvsr_trt.errors import TruncatedInputError, VideoError
from flashvsr_trt.files.new import new_report
from flashvsr_trt.files.parents import new_parents
from flashvsr_trt.files.targets import local_path
from flashvsr_trt.notices import Notify, phase
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.executors import Executors
from flashvsr_trt.runtime.output_names import check_files, chosen_output, is_folder_of_videos
from flashvsr_trt.runtime.pipeline import PipelineReport, upscale_video
from flashvsr_trt.runtime.request import RunOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.side_by_side import BeforeAndAfter
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.output import open_output


def upscale_file(
    options: RunOptions,
    notify: Notify,
    progress: Callable[[int, int | None], None] | None = None,
    executors: Executors | None = None,
) -> tuple[dict[str, Any], TruncatedInputError | None]:
    """Upscale `options.input` into `options.output`.

    `notify` gets one line for each thing a user should know, `progress(done, total)` the frames written.
    `executors` keeps what is loaded for the next file.

    Returns:
        The report, and why the input ended early where it did: the output is complete and kept.

    Raises:
        FlashVSRError: one of its kinds; nothing is left under the output's name.
    """
    check_files(options)
    output_name = chosen_output(options)
    profile_name = local_path(options.profile) if options.profile else None
    options.check()
    executors = executors or Executors(notify)
    with (
        ExitStack() as files,
        open_input(options.input, options, notify) as source,
    ):
        info = source.info
        geometry = options.stream(info.height, info.width).geometry
        if profile_name:
            files.enter_context(new_parents(profile_name, VideoError))
            write_trace = files.enter_context(new_report(profile_name, overwrite=options.overwrite))
        if is_folder_of_videos(options):
            files.enter_context(new_parents(output_name, VideoError))
        with open_output(
            output_name, source, geometry.output, options, upscaled=geometry.upscaled, notify=notify
        ) as output:
            executor = executors.open(options, info.height, info.width, bool(profile_name))
            before = executor.stage_seconds()
            with (
                Session(executor, chunk_size=options.chunk_size, seed=options.seed, overlap=True) as session,
                phase("upscaling", "frames") as report,
            ):
                report(0, info.frames)
                upscaler = BeforeAndAfter(session, geometry) if options.side_by_side else session
                run = upscale_video(
                    source, upscaler, output, batch=options.chunk_size, progress=progress or report
                )
            own = {name: total - before.get(name, 0.0) for name, total in executor.stage_seconds().items()}
            run = replace(run, stage_seconds=run.stage_seconds | own)
        if profile_name and executor.profile:
            write_trace(executor.profile.trace_text())
            for line in (*executor.profile.table(), f"trace for Perfetto: {profile_name}"):
                notify(line)
    return run_report(options, output_name, executor, run, source.info.rate), run.truncated


def run_report(
    options: RunOptions, output: str, executor: Executor, run: PipelineReport, rate: Fraction
) -> dict[str, Any]:
    """The JSON report: seconds are wall seconds, and those of stages overlap. `rate` is the clip's own."""
    stream = executor.stream
    geometry = stream.geometry
    fps = run.frames / run.seconds if run.seconds else None
    return {
        "input": options.input,
        "output": output,
        "frames": run.frames,
        "seconds": run.seconds,
        "fps": fps,
        "steady_fps": run.steady_fps,
        "real_time": (run.steady_fps or fps or 0) / float(rate),
        "bytes": os.path.getsize(output) if os.path.isfile(output) else None,
        "truncated": run.truncated is not None,
        "stage_seconds": run.stage_seconds,
        "size": {
            "input": [geometry.width, geometry.height],
            "output": list(reversed(geometry.output)),
            "target": list(reversed(geometry.target)),
        },
        "preset": stream.preset.name,
        "schedule": stream.schedule.name,
        "scale": geometry.scale,
        "fit": geometry.fit,
        "chunk_size": options.chunk_size,
        "seed": options.seed,
        "color_fix": stream.color_fix,
        "upsampler": stream.upsampler,
        "executor": executor.describe(),
        "versions": {
            "flashvsr-trt": __version__,
            "python": platform.python_version(),
            "av": av.__version__,
            "numpy": np.__version__,
        },
    }

"""One video file to another: input, executor, session, output, report."""

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import av
import numpy as np

from flashvsr_trt import __version__
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import TruncatedInputError, UsageError
from flashvsr_trt.files.new import new_report
from flashvsr_trt.files.targets import STANDARD_STREAM, check_outputs, local_path
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.pipeline import PipelineReport, upscale_video
from flashvsr_trt.runtime.request import (
    EngineOptions,
    ExecutorRequest,
    RunOptions,
    TileOptions,
    TorchOptions,
    part_of,
)
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.video.image_output import is_image_output, refuse_among_pictures
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.output import open_output
from flashvsr_trt.runtime.video.output_name import STDOUT, STDOUT_NAMES, check_stdout, default_output


@dataclass(frozen=True)
class RunResult:
    """What a run made. `truncated` is set when the input ended early; the output is complete and kept."""

    output: str
    report: dict[str, Any]
    truncated: TruncatedInputError | None


def upscale_file(
    options: RunOptions, notify: Notify, progress: Callable[[int, int | None], None] | None = None
) -> RunResult:
    """Upscale `options.input` into `options.output`.

    `notify` gets one line for each thing a user should know, `progress(done, total)` the frames written.

    Raises:
        FlashVSRError: one of its kinds; nothing is left under the output's name.
    """
    check_files(options)
    output_name = chosen_output(options)
    profile_name = local_path(options.profile) if options.profile else None
    preset, schedule = find_preset(options.preset), find_schedule(options.schedule)
    with (
        ExitStack() as files,
        open_input(options.input, options, notify) as source,
    ):
        geometry = Geometry(source.info.height, source.info.width, options.scale, options.fit)
        stream = StreamConfig(preset, geometry, schedule, options.upsampler, options.color_fix)
        if profile_name:
            write_trace = files.enter_context(new_report(profile_name, overwrite=options.overwrite))
        with open_output(
            output_name, source, geometry.output, options, upscaled=geometry.upscaled, notify=notify
        ) as output:
            request = ExecutorRequest(
                stream,
                options.weights,
                options.device,
                options.dtype,
                torch=part_of(options, TorchOptions),
                engines=EngineOptions(options.build, bool(profile_name), options.flavour, options.engines),
                tiles=part_of(options, TileOptions),
            )
            executor = open_executor(options.backend, request, notify)
            with Session(executor, chunk_size=options.chunk_size, seed=options.seed, overlap=True) as session:
                run = upscale_video(source, session, output, batch=options.chunk_size, progress=progress)
        if profile_name and executor.profile:
            write_trace(executor.profile.trace_text())
            for line in (*executor.profile.table(), f"trace for Perfetto: {profile_name}"):
                notify(line)
    report = run_report(options, output_name, executor, run)
    return RunResult(output_name, report, run.truncated)


def check_files(options: RunOptions, reports: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Raise UsageError where an output is the input or another output, or exists without `overwrite`.

    `reports` are files that the caller writes: what each is called -> its name, None or "-" for none.
    """
    reports = {"--profile": options.profile, **reports}
    for what, path in reports.items():
        folder = os.path.dirname(local_path(path or "")) or "."
        if not os.path.isdir(folder):
            raise UsageError(f"{what} {path} cannot be written: there is no folder {folder}")
    output = chosen_output(options)
    if output == STDOUT:
        check_stdout(reports)
    outputs = {"the output": output}
    if output and is_image_output(output):
        outputs = {}
        for what, path in reports.items():
            if path and path != STANDARD_STREAM:
                refuse_among_pictures(output, what, local_path(path))
    check_outputs(outputs | reports, [options.input], options.overwrite)


def chosen_output(options: RunOptions) -> str:
    """Where the video goes: as asked for, or beside the input. Stdout is STDOUT, by whatever name."""
    if options.output is None:
        return local_path(default_output(options.input, options.scale, options.codec))
    return STDOUT if options.output in STDOUT_NAMES else local_path(options.output)


def run_report(options: RunOptions, output: str, executor: Executor, run: PipelineReport) -> dict[str, Any]:
    """The JSON report: seconds are wall seconds, and those of stages overlap."""
    stream = executor.stream
    geometry = stream.geometry
    return {
        "input": options.input,
        "output": output,
        "frames": run.frames,
        "seconds": run.seconds,
        "fps": run.frames / run.seconds if run.seconds else None,
        "truncated": run.truncated is not None,
        "stage_seconds": {
            "read": run.decode_seconds,
            "wait_for_read": run.decode_wait_seconds,
            "upscale": run.upscale_seconds,
            **executor.stage_seconds(),
            "wait_for_write": run.encode_wait_seconds,
            "write": run.encode_seconds,
        },
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

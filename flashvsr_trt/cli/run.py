"""`flashvsr-trt run`: its options, and what it says at the end."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from typing import Any

import click
from click.core import ParameterSource

from flashvsr_trt.cli.codecs import list_codecs
from flashvsr_trt.cli.commands import Command
from flashvsr_trt.cli.display import DISPLAY, say
from flashvsr_trt.cli.options import (
    COUNT,
    EXECUTOR_OPTIONS,
    FIT,
    OVERWRITE,
    SEED,
    THREADS,
    BytesType,
    EncoderOption,
    FiniteType,
    OutputPath,
    PositionType,
    RateType,
    SizeType,
    TileType,
    TimeType,
    choice,
)
from flashvsr_trt.errors import FileError, TruncatedInputError, UsageError, VideoError
from flashvsr_trt.files.new import new_report
from flashvsr_trt.files.parents import new_parents
from flashvsr_trt.files.targets import STANDARD_STREAM, local_path
from flashvsr_trt.runtime.request import ATTENTIONS, KV_CACHES, PIPE_FORMATS, RunOptions, take_precision

STREAM_CODECS = "copy, auto (convert what OUT cannot hold), none, or an encoder for all"


@click.command(cls=Command)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File, folder/ for files of the inputs' names, %05d.png for pictures, or -.  [default: INPUT_2x]",
)
@click.option(
    "--resume", is_flag=True, help="Skip inputs whose output is there; it has its name only when whole."
)
@click.option(
    "--preview",
    type=TimeType(),
    help="Upscale half a second around TIME alone, to two PNGs and a page with a slider in a folder.",
)
@click.option(
    "--side-by-side", is_flag=True, help="Write before (bicubic) left of a line and after right of it."
)
@click.option(
    "--list-codecs",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_codecs,
    help="List the video encoders for --codec, and which of them open here.",
)
@EXECUTOR_OPTIONS
@FIT
@click.option("--seed", type=SEED, default=0, help="Of the noise.")
@click.option("--gpus", type=COUNT, help="Share the work between this many; starts torchrun.")
@click.option("--dtype", default="auto", hidden=True, help="A --precision by PyTorch's name of it.")
@choice("--attention", ATTENTIONS, "reference: PyTorch instead of the kernels.")
@click.option("--calibration", metavar="FILE", help="What `calibrate` wrote: products that fp8 leaves out.")
@click.option("--compile", is_flag=True, help="torch.compile for encoding and the decoder.")
@click.option(
    "--cuda-graphs/--no-cuda-graphs", default=None, help="Replay steady steps.  [default: on a GPU]"
)
@choice("--kv-cache", KV_CACHES, "fp8: keys and values in half the memory; torch, on one GPU or a CPU.")
@click.option(
    "--tile",
    type=TileType(),
    default="auto",
    help="Run in tiles of this size of the upscaled frame; auto: where it does not fit in one piece.",
)
@click.option("--vram", type=BytesType(), metavar="BYTES", help="Take no more memory than this, say 8G.")
@click.option(
    "--profile",
    type=OutputPath(path_type=str),
    metavar="FILE",
    help="Print times by layer of engines, and write a trace.",
)
@click.option("--start", type=PositionType(), default="0", show_default=False, help="Skip what comes before.")
@click.option("--end", type=PositionType(), help="Stop before this frame or time.")
@click.option("--duration", type=PositionType(), help="Stop after this many frames, or this long.")
@click.option("-ss", "--ss", type=TimeType(), help="As FFmpeg's: --start, where a bare number is seconds.")
@click.option("-to", "--to", type=TimeType(), help="As FFmpeg's: --end, where a bare number is seconds.")
@click.option("-t", "t", type=TimeType(), help="As FFmpeg's: --duration, where a bare number is seconds.")
@click.option("--frames", type=COUNT, help="Stop after this many frames.")
@click.option("--rate", type=RateType(), help="Frames a second of images and raw video.")
@click.option("--raw-size", type=SizeType(), help="The input is raw video of this size.")
@click.option("--raw-format", default="rgb24", help="Pixel format of raw video.")
@click.option(
    "--deinterlace/--no-deinterlace",
    default=None,
    help="With bwdif, a frame for a frame; or take interlaced frames as they are.  [default: refuse them]",
)
@click.option(
    "--format",
    "container",
    type=click.Choice(list(PIPE_FORMATS)),
    callback=lambda context, option, name: name and PIPE_FORMATS[name],
    help="Container of -o -.  [default: matroska]",
)
@click.option(
    "--codec", help="Video encoder.  [default: libx264, libvpx-vp9 for webm; one with alpha if needed]"
)
@click.option("--crf", type=FiniteType(), help="Quality; lower is better and larger.")
@click.option(
    "--pix-fmt",
    "pixel_format",
    help="Of the output.  [default: 4:2:0 with the input's alpha, and 10 bits if it has more than 8]",
)
@click.option(
    "--encoder-option",
    "encoder_options",
    type=EncoderOption(),
    multiple=True,
    callback=lambda context, option, pairs: dict(pairs),
    help="Say preset=slow.",
)
@click.option("--audio-codec", default="copy", help=f"{STREAM_CODECS}, say aac.")
@click.option("--subtitle-codec", default="copy", help=f"{STREAM_CODECS}, say mov_text.")
@click.option(
    "--threads",
    type=THREADS,
    default=0,
    show_default=False,
    help="Of decoder and encoder.  [default: theirs]",
)
@OVERWRITE
@click.option("--json", "json_file", metavar="FILE", help="Write a report; - for stdout.")
@click.pass_obj
def run(
    arguments: Sequence[str],
    inputs: tuple[str, ...],
    json_file: str | None,
    gpus: int | None,
    resume: bool,
    preview: Fraction | None,
    ss: Fraction | None,
    to: Fraction | None,
    t: Fraction | None,
    **options: Any,
) -> None:
    """Upscale INPUT: a video, a folder, glob or %05d pattern of images, or - for a pipe.

    Of several videos, or a folder of them, one that fails does not stop the others. FRAME|TIME: an integer
    counts frames (48), else it is a time (1:02:03.5, 1:30, 12.5s, 500ms).
    """
    from flashvsr_trt.runtime.batch import is_batch, jobs_of, left_out
    from flashvsr_trt.runtime.distributed.run import launch_if_asked, run_ranks

    take_times(options, {"start": ss, "end": to, "duration": t})
    options = take_precision(options)
    asked = RunOptions(input=inputs[0], **options)
    if preview is not None:
        refuse_beside_preview(click.get_current_context())
        write_one_preview(asked, inputs, preview)
        return
    several = is_batch(inputs)
    jobs = jobs_of(inputs, asked) if several else [asked]
    check_jobs(jobs, json_file, resume, several)
    launch_if_asked(gpus, asked, arguments)
    with run_ranks(asked), report_file(json_file, asked.overwrite) as write_report:
        if several or resume:
            for line in left_out(inputs):
                say(line)
            upscale_all(jobs, resume, several, write_report)
        else:
            upscale_one(asked, write_report)


def check_jobs(jobs: Sequence[RunOptions], json_file: str | None, resume: bool, several: bool) -> None:
    """Raise UsageError before anything is loaded where an output would lose a file."""
    from flashvsr_trt.runtime.batch import is_done
    from flashvsr_trt.runtime.output_names import check_files

    for job in jobs:
        if not (resume and is_done(job)):
            check_files(job, {"--json": json_file}, makes_folder=several)


def upscale_one(options: RunOptions, write_report: Callable[[str], None]) -> None:
    from flashvsr_trt.runtime.upscale import upscale_file

    report, truncated = upscale_file(options, say)
    write_report(json.dumps(report, indent=2) + "\n")
    tell_summary(report)
    if truncated:
        raise truncated


def upscale_all(
    jobs: Sequence[RunOptions], resume: bool, several: bool, write_report: Callable[[str], None]
) -> None:
    """Several inputs, or one that is perhaps done. Raises BatchError, or the one input's own error."""
    from flashvsr_trt.runtime.batch import check_outcomes, run_batch
    from flashvsr_trt.runtime.executors import Executors
    from flashvsr_trt.runtime.upscale import upscale_file

    executors = Executors(say)

    def upscale(job: RunOptions) -> tuple[dict[str, Any], TruncatedInputError | None]:
        with new_parents(job.output or "", VideoError) if several else nullcontext():
            report, truncated = upscale_file(job, say, executors=executors)
        tell_summary(report)
        return report, truncated

    outcomes = run_batch(jobs, upscale, resume, say)
    facts = [vars(each) | {"error": each.error and str(each.error)} for each in outcomes]
    write_report(json.dumps({"inputs": facts}, indent=2) + "\n")
    if several:
        check_outcomes(outcomes, say)
    elif outcomes[0].error:
        raise outcomes[0].error


WITHOUT_PREVIEW = (
    *("json_file", "gpus", "resume", "side_by_side", "profile", "start", "end", "duration", "frames"),
    *("ss", "to", "t", "codec", "crf", "pixel_format", "container"),
)
"""Options that say nothing to a preview: which frames it takes is its own time, and it encodes no video."""


def refuse_beside_preview(context: click.Context) -> None:
    """Raise UsageError for options that a preview would have to leave aside."""
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name in WITHOUT_PREVIEW:
            raise UsageError(f"--preview has no use for {max(option.opts, key=len)}; leave one of them out")


def write_one_preview(options: RunOptions, inputs: Sequence[str], at: Fraction) -> None:
    from flashvsr_trt.quality.preview import FILES, write_preview
    from flashvsr_trt.runtime.batch import is_batch
    from flashvsr_trt.runtime.video.image_output import names_folder

    if is_batch(inputs):
        raise UsageError("--preview is of one video; name one")
    named = options.output
    if named is not None and (named == STANDARD_STREAM or not names_folder(named)):
        raise UsageError(f"-o {named} is no folder, and a preview is one; name a folder, as look/")
    folder = write_preview(options, at, say)
    say(f"{folder}: {', '.join(FILES)}")


def tell_summary(report: Mapping[str, Any]) -> None:
    """The last line of a run: how much, how fast, what size, and where it is."""
    (width, height), (wide, high) = report["size"]["input"], report["size"]["output"]
    fps = report["steady_fps"] or report["fps"]
    speed = f"{fps:.2f} FPS" if fps else "no time"
    if report["real_time"]:
        speed += f", {report['real_time']:.2f}x real time"
    facts = [
        f"{report['frames']:,} frame{'s' * (report['frames'] != 1)} in {report['seconds']:.1f} s ({speed})"
    ]
    facts.append(f"{width}x{height} to {wide}x{high}")
    if report["bytes"]:
        facts.append(size_in_words(report["bytes"]))
    if DISPLAY.style == "json" and DISPLAY.verbosity >= 0:
        DISPLAY.write_json("summary", **report)
    else:
        say(f"{report['output']}: {', '.join(facts)}")


def size_in_words(size: int) -> str:
    """`130 kB`, `4.2 MB`."""
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:,.1f} MB"


def take_times(options: dict[str, Any], times: Mapping[str, Fraction | None]) -> None:
    """FFmpeg's -ss, -to and -t in the places of --start, --end and --duration. Raises UsageError for both."""
    spelled = {"start": "-ss", "end": "-to", "duration": "-t"}
    for name, time in times.items():
        if time is not None:
            if options[name] not in (None, 0):
                raise UsageError(f"{spelled[name]} and --{name} say the same twice; leave one out")
            options[name] = time


@contextmanager
def report_file(path: str | None, overwrite: bool) -> Iterator[Callable[[str], None]]:
    """Gives `write(text)` for the report that --json asks for."""
    if path and path != STANDARD_STREAM:
        path = local_path(path)
        with new_parents(path, FileError), new_report(path, overwrite=overwrite) as write:
            yield write
    else:
        yield lambda text: click.echo(text, nl=False) if path else None

"""`flashvsr-trt run`: its options, and what it says at the end."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import click

from flashvsr_trt.cli.commands import Command
from flashvsr_trt.cli.display import DISPLAY, say
from flashvsr_trt.cli.options import (
    COLOR_FIX,
    COUNT,
    DTYPES,
    OVERWRITE,
    PRESET,
    SCALE,
    SCHEDULE,
    SEED,
    THREADS,
    UPSAMPLER,
    WEIGHTS,
    BytesType,
    EncoderOption,
    FiniteType,
    PositionType,
    RateType,
    SizeType,
    TileType,
    TimeType,
    choice,
)
from flashvsr_trt.config.geometry import FITS
from flashvsr_trt.config.presets import CHUNK_SIZES
from flashvsr_trt.engines.flavours import FLAVOUR_CHOICES
from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.new import new_report
from flashvsr_trt.files.targets import STANDARD_STREAM, local_path
from flashvsr_trt.runtime.request import ATTENTIONS, DIT_PRECISIONS, KV_CACHES, PIPE_FORMATS, RunOptions

PRECISIONS = ("auto", *DTYPES, *DIT_PRECISIONS)
"""What `--precision` takes: a dtype of all, or FP8 in the DiT beside one; `dtype` is an older auto."""

STREAM_CODECS = "copy, auto (convert what OUT cannot hold), none, or an encoder for all"


@click.command(cls=Command)
@click.argument("input", metavar="INPUT")
@click.option("-o", "--output", metavar="OUT", help="File, folder, or - for stdout.  [default: INPUT_2x]")
@PRESET
@SCALE
@WEIGHTS
@SCHEDULE
@choice("--chunk-size", CHUNK_SIZES, "Frames a call: 16 is a little faster, and later.")
@choice("--fit", FITS, "To multiples of 128 pixels.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the noise.")
@COLOR_FIX
@UPSAMPLER
@click.option("--backend", default="auto", show_default=True, help="See `flashvsr-trt doctor`.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--gpus", type=COUNT, help="Share the work between this many; starts torchrun.")
@click.option("--dtype", default="auto", hidden=True, help="A --precision by PyTorch's name of it.")
@choice("--attention", ATTENTIONS, "reference: PyTorch instead of the kernels.")
@choice(
    "--precision",
    PRECISIONS,
    "bf16 on a GPU, fp32 on a CPU; fp8 is faster and less exact; fp8-attention has not run on a GPU yet.",
    metavar="|".join(PRECISIONS[:-3]) + "|fp8|fp8-attention",
)
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
    show_default=True,
    help="Run in tiles of this size of the upscaled frame; auto: where it does not fit in one piece.",
)
@click.option("--vram", type=BytesType(), metavar="BYTES", help="Take no more memory than this, say 8G.")
@click.option("--build/--no-build", default=True, show_default=True, help="Build engines that are missing.")
@choice("--flavour", FLAVOUR_CHOICES, "Of the engines that --backend tensorrt runs.")
@click.option(
    "--engines", metavar="DIR", help="Run the engines in DIR, a set or a folder of sets; build none."
)
@click.option("--profile", metavar="FILE", help="Print times by layer of engines, and write a trace.")
@click.option("--start", type=PositionType(), default="0", help="Skip what comes before.")
@click.option("--end", type=PositionType(), help="Stop before this frame or time.")
@click.option("--duration", type=PositionType(), help="Stop after this many frames, or this long.")
@click.option("-ss", "--ss", type=TimeType(), help="As FFmpeg's: --start, where a bare number is seconds.")
@click.option("-to", "--to", type=TimeType(), help="As FFmpeg's: --end, where a bare number is seconds.")
@click.option("-t", "t", type=TimeType(), help="As FFmpeg's: --duration, where a bare number is seconds.")
@click.option("--frames", type=COUNT, help="Stop after this many frames.")
@click.option("--rate", type=RateType(), help="Frames a second of images and raw video.")
@click.option("--raw-size", type=SizeType(), help="The input is raw video of this size.")
@click.option("--raw-format", default="rgb24", show_default=True, help="Pixel format of raw video.")
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
@click.option("--audio-codec", default="copy", show_default=True, help=f"{STREAM_CODECS}, say aac.")
@click.option("--subtitle-codec", default="copy", show_default=True, help=f"{STREAM_CODECS}, say mov_text.")
@click.option("--threads", type=THREADS, default=0, help="Of decoder and encoder.  [default: theirs]")
@OVERWRITE
@click.option("--json", "json_file", metavar="FILE", help="Write a report; - for stdout.")
@click.pass_obj
def run(
    arguments: Sequence[str],
    json_file: str | None,
    gpus: int | None,
    ss: Fraction | None,
    to: Fraction | None,
    t: Fraction | None,
    **options: Any,
) -> None:
    """Upscale INPUT: a video, a folder, glob or %05d pattern of images, or - for a pipe.

    FRAME|TIME: an integer counts frames (48), else it is a time (1:02:03.5, 1:30, 12.5s, 500ms).
    """
    from flashvsr_trt.runtime.distributed.run import launch_if_asked, run_ranks
    from flashvsr_trt.runtime.upscale import check_files, upscale_file

    take_times(options, {"start": ss, "end": to, "duration": t})
    take_precision(options)
    run_options = RunOptions(**options)
    check_files(run_options, {"--json": json_file})
    launch_if_asked(gpus, run_options, arguments)
    with run_ranks(run_options), report_file(json_file, run_options.overwrite) as write_report:
        report, truncated = upscale_file(run_options, say)
        write_report(json.dumps(report, indent=2) + "\n")
    tell_summary(report)
    if truncated:
        raise truncated


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


def take_precision(options: dict[str, Any]) -> None:
    """`--precision bf16` is a dtype, `--precision fp8` what the DiT multiplies in beside one."""
    asked = options["precision"]
    if asked in DIT_PRECISIONS[1:]:
        return
    options["precision"] = DIT_PRECISIONS[0]
    if asked in DTYPES:
        if options["dtype"] not in ("auto", DTYPES[asked]):
            raise UsageError(f"--precision {asked} and --dtype {options['dtype']} differ; leave --dtype out")
        options["dtype"] = DTYPES[asked]


def tell_summary(report: Mapping[str, Any]) -> None:
    """The last line of a run: how much, how fast, what size, and where it is."""
    (width, height), (wide, high) = report["size"]["input"], report["size"]["output"]
    fps = report["steady_fps"] or report["fps"]
    speed = f"{fps:.2f} FPS" if fps else "no time"
    if report["real_time"]:
        speed += f", {report['real_time']:.2f}x real time"
    facts = [f"{report['frames']:,} frames in {report['seconds']:.1f} s ({speed})"]
    facts.append(f"{width}x{height} to {wide}x{high}")
    if report["bytes"]:
        facts.append(size_in_words(report["bytes"]))
    if DISPLAY.style == "json":
        DISPLAY.write_json("summary", **report)
    else:
        say(f"{report['output']}: {', '.join(facts)}")


@contextmanager
def report_file(path: str | None, overwrite: bool) -> Iterator[Callable[[str], None]]:
    """Gives `write(text)` for the report that --json asks for."""
    if path and path != STANDARD_STREAM:
        with new_report(local_path(path), overwrite=overwrite) as write:
            yield write
    else:
        yield lambda text: click.echo(text, nl=False) if path else None

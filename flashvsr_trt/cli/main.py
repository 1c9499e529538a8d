"""The command line. Errors are one line on stderr and an exit code; `--debug` shows the traceback."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from flashvsr_trt import __version__
from flashvsr_trt.cli.cache import cache
from flashvsr_trt.cli.calibrate import calibrate
from flashvsr_trt.cli.compare import compare
from flashvsr_trt.cli.engines import engines
from flashvsr_trt.cli.export import export, inspect, parity
from flashvsr_trt.cli.gate import gate
from flashvsr_trt.cli.kernels import kernels
from flashvsr_trt.cli.options import (
    COLOR_FIX,
    COUNT,
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
    choice,
)
from flashvsr_trt.cli.terminal import plain_reason, prepare_streams, say, show_progress, silence_stdout
from flashvsr_trt.cli.weights import weights
from flashvsr_trt.config.geometry import FITS
from flashvsr_trt.config.presets import CHUNK_SIZES, DEFAULT_PRESET, PRESETS
from flashvsr_trt.engines.flavours import FLAVOUR_CHOICES
from flashvsr_trt.errors import FlashVSRError, named_missing_parts
from flashvsr_trt.files.new import FINISHED, new_report
from flashvsr_trt.files.staging import remove_unfinished
from flashvsr_trt.files.targets import STANDARD_STREAM, local_path
from flashvsr_trt.runtime.request import ATTENTIONS, DIT_PRECISIONS, KV_CACHES, PIPE_FORMATS, RunOptions
from flashvsr_trt.signals import ended_by_signals, exit_code

BROKEN_PIPE = 128 + 13
"""Exit code when the reader of stdout has gone, as shells have it for SIGPIPE."""

FAULT = 70
"""Exit code for an error that nobody expected: EX_SOFTWARE of sysexits.h."""


STREAM_CODECS = "copy, auto (convert what OUT cannot hold), none, or an encoder for all"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flashvsr-trt")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """FlashVSR v1.1 video super-resolution."""


for command in (weights, kernels, export, parity, inspect, engines, cache, compare, calibrate, gate):
    cli.add_command(command)


@cli.command()
@click.argument("input", metavar="INPUT")
@click.option("-o", "--output", metavar="OUT", help="File, folder, or - for stdout.  [default: INPUT_2x]")
@PRESET
@SCALE
@WEIGHTS
@SCHEDULE
@choice("--chunk-size", CHUNK_SIZES, "Frames a call.")
@choice("--fit", FITS, "To multiples of 128 pixels.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the noise.")
@COLOR_FIX
@UPSAMPLER
@click.option("--backend", default="auto", show_default=True, help="See `flashvsr-trt doctor`.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--gpus", type=COUNT, help="Share the work between this many; starts torchrun.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@choice("--attention", ATTENTIONS, "reference: PyTorch instead of the kernels.")
@choice(
    "--precision",
    DIT_PRECISIONS,
    "Of the DiT: fp8 is faster and less exact; fp8-attention has not run on a GPU yet.",
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
@click.option("--no-build", "build", flag_value=False, default=True, help="Do not build missing engines.")
@choice("--flavour", FLAVOUR_CHOICES, "Of the engines that --backend tensorrt runs.")
@click.option(
    "--engines", metavar="DIR", help="Run the engines in DIR, a set or a folder of sets; build none."
)
@click.option("--profile", metavar="FILE", help="Print times by layer of engines, and write a trace.")
@click.option("--start", type=PositionType(), default="0", help="Skip what comes before.")
@click.option("--end", type=PositionType(), help="Stop before this frame or time.")
@click.option("--duration", type=PositionType(), help="Stop after this many frames, or this long.")
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
@click.option("--overwrite", is_flag=True, help="Replace what exists: the output, the report, the trace.")
@click.option("--json", "json_file", metavar="FILE", help="Write a report; - for stdout.")
@click.pass_obj
def run(arguments: Sequence[str], json_file: str | None, gpus: int | None, **options) -> None:
    """Upscale INPUT: a video, a folder, glob or %05d pattern of images, or - for a pipe.

    FRAME|TIME: an integer counts frames (48), else it is a time (1:02:03.5, 1:30, 12.5s, 500ms).
    """
    from flashvsr_trt.runtime.distributed.run import launch_if_asked, run_ranks
    from flashvsr_trt.runtime.upscale import check_files, upscale_file

    run_options = RunOptions(**options)
    check_files(run_options, {"--json": json_file})
    launch_if_asked(gpus, run_options, arguments)
    with (
        run_ranks(run_options),
        report_file(json_file, run_options.overwrite) as write_report,
        show_progress() as progress,
    ):
        report, truncated = upscale_file(run_options, say, progress)
        write_report(json.dumps(report, indent=2) + "\n")
    say("{output}: {frames} frames in {seconds:.1f} s ({fps:.2f} FPS)".format(**report))
    if truncated:
        raise truncated


@contextmanager
def report_file(path: str | None, overwrite: bool) -> Iterator[Callable[[str], None]]:
    """Gives `write(text)` for the report that --json asks for."""
    if path and path != STANDARD_STREAM:
        with new_report(local_path(path), overwrite=overwrite) as write:
            yield write
    else:
        yield lambda text: click.echo(text, nl=False) if path else None


def say_error(error: Exception | str) -> None:
    """One line, whatever the error's text holds."""
    say("error: " + " ".join(str(error).split("\n")))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def presets(as_json: bool) -> None:
    """List the presets."""
    if as_json:
        rows = [
            {
                "name": preset.name,
                "aliases": preset.aliases,
                "description": preset.description,
                "sparse_ratio": preset.attention.sparse_ratio,
                "published_weights": preset.published,
                "default": preset.name == DEFAULT_PRESET,
            }
            for preset in PRESETS
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for preset in PRESETS:
        default = " (default)" if preset.name == DEFAULT_PRESET else ""
        click.echo(f"{preset.name:<15} {preset.description}{default}")
        for alias in preset.aliases:
            click.echo(f"{'':<15} also: {alias}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--vram",
    "budgets",
    type=BytesType(),
    multiple=True,
    metavar="BYTES",
    help="Only say which frames fit a GPU of so much memory, and in which tiles. May be given several times.",
)
def doctor(as_json: bool, budgets: tuple[int, ...]) -> None:
    """Say what this machine can do, what is missing, and the command that fixes it."""
    from flashvsr_trt.cli.doctor import examine, gpu_memory
    from flashvsr_trt.cli.memory_table import show_memory

    if budgets:
        show_memory(budgets, as_json)
        return

    findings = examine()
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
        return
    for finding in findings:
        click.echo(f"{'ok     ' if finding.present else 'missing'} {finding.name:<16} {finding.detail}")
        if finding.fix:
            click.echo(f"{'':<24} {finding.fix}")
    if memory := gpu_memory():
        click.echo()
        show_memory((memory,), as_json)


def _reported(error: BaseException) -> int:
    """Says in one line what ended the command; gives its exit code."""
    if isinstance(error, FlashVSRError):
        if isinstance(error.__cause__, BrokenPipeError):
            silence_stdout()
            return BROKEN_PIPE
        say_error(error)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        # click makes an Abort of a KeyboardInterrupt.
        cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__ or error
        code = exit_code(cause)
        how = "interrupted" if code == exit_code(KeyboardInterrupt()) else f"ended by {cause}"
        say(f"{how}; {f'only {FINISHED[-1]}' if FINISHED else 'nothing'} was written")
        return code
    if isinstance(error, OSError | MemoryError):
        say_error(plain_reason(error))
        return FlashVSRError.exit_code
    say_error(f"{type(error).__name__}: {error}; this is a fault of flashvsr-trt; --debug shows it")
    return FAULT


@contextmanager
def reported_errors(debug: bool):
    """Turn expected errors into one line on stderr and their exit code."""
    try:
        yield
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except click.exceptions.NoArgsIsHelpError as help_request:
        help_request.show()
        sys.exit(help_request.exit_code)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        advice = f"; see {context.command_path} --help" if context else ""
        say(f"error: {error.format_message().rstrip('.')}{advice}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of stdout has seen enough (`| head`); Python must not try to flush what is left.
        silence_stdout()
        sys.exit(BROKEN_PIPE)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        sys.exit(_reported(error))
    finally:
        remove_unfinished()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `flashvsr-trt` and of `python -m flashvsr_trt`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    FINISHED.clear()
    prepare_streams()
    with ended_by_signals(), reported_errors(debug="--debug" in arguments), named_missing_parts():
        cli.main(arguments, prog_name="flashvsr-trt", standalone_mode=False, obj=arguments)
        sys.stdout.flush()

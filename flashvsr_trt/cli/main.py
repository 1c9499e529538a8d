"""The command line. Errors are one line on stderr and an exit code; `--debug` shows the traceback."""

import gc
import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager

import click

from flashvsr_trt import __version__
from flashvsr_trt.cli.bench import bench
from flashvsr_trt.cli.cache import cache
from flashvsr_trt.cli.calibrate import calibrate
from flashvsr_trt.cli.commands import Group
from flashvsr_trt.cli.compare import compare
from flashvsr_trt.cli.config import config, read_config
from flashvsr_trt.cli.display import LOG, displayed, say
from flashvsr_trt.cli.engines import engines
from flashvsr_trt.cli.export import export, inspect, parity
from flashvsr_trt.cli.gate import gate
from flashvsr_trt.cli.kernels import kernels
from flashvsr_trt.cli.options import JSON, BytesType
from flashvsr_trt.cli.run import run
from flashvsr_trt.cli.terminal import guarded_streams, plain_reason, prepare_streams
from flashvsr_trt.cli.weights import weights
from flashvsr_trt.config.presets import DEFAULT_PRESET, PRESETS
from flashvsr_trt.errors import FlashVSRError, named_missing_parts
from flashvsr_trt.files.finished import what_was_written
from flashvsr_trt.files.new import FINISHED
from flashvsr_trt.files.staging import remove_unfinished
from flashvsr_trt.signals import ended_by_signals, exit_code

BROKEN_PIPE = 128 + 13
"""Exit code when the reader of stdout has gone, as shells have it for SIGPIPE."""

GARBAGE = (20_000, 20, 20)
"""New objects before Python looks for cycles among them, and such looks before one among older objects.

Importing torch and tracing graphs makes millions that stay: with Python's own numbers, a tenth of the time
to start goes into looks that find nothing.
"""

FAULT = 70
"""Exit code for an error that nobody expected: EX_SOFTWARE of sysexits.h."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="flashvsr-trt")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """FlashVSR v1.1 video super-resolution."""


COMMANDS = (
    *(run, bench, compare, config, weights, export, parity, inspect, engines),
    *(kernels, cache, calibrate, gate),
)
for command in COMMANDS:
    cli.add_command(command)


def say_error(error: Exception | str) -> None:
    """One line, whatever the error's text and notes hold."""
    text = noted(str(error), error)
    LOG.error("%s", " ".join(text.split("\n")), exc_info=isinstance(error, Exception) and error)


def noted(text: str, error: Exception | str) -> str:
    """What an error says, and its notes: where the values that it is about were given."""
    return " ".join([text, *getattr(error, "__notes__", ())])


@cli.command()
@JSON
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
@JSON
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
    parts = [finding for finding in findings if finding.name != "verdict"]
    for finding in parts:
        click.echo(f"{finding.state:<8} {finding.name:<19} {finding.detail}")
        if finding.fix:
            click.echo(f"{'':<28} {finding.fix}")
    if memory := gpu_memory():
        click.echo()
        show_memory((memory,), as_json)
    for finding in findings[len(parts) :]:
        click.echo(f"\n{finding.detail}")


def _ended_by(error: BaseException) -> int:
    """Says in one line what ended the command; gives its exit code."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return error.exit_code
        case click.ClickException():
            context = error.ctx if isinstance(error, click.UsageError) else None
            advice = f"; see {context.command_path} --help" if context else ""
            say_error(noted(error.format_message().rstrip("."), error) + advice)
            return error.exit_code
        case FlashVSRError(__cause__=BrokenPipeError()):
            return BROKEN_PIPE
        case FlashVSRError():
            say_error(error)
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            # click makes an Abort of a KeyboardInterrupt.
            cause = error if isinstance(error, KeyboardInterrupt) else error.__cause__ or error
            code = exit_code(cause)
            how = "interrupted" if code == exit_code(KeyboardInterrupt()) else f"ended by {cause}"
            say(f"{how}; {what_was_written()}")
            return code
        case OSError() | MemoryError():
            say_error(plain_reason(error))
            return FlashVSRError.exit_code
    say_error(f"{type(error).__name__}: {error}; this is a fault of flashvsr-trt; --debug shows it")
    return FAULT


@contextmanager
def reported_errors(debug: bool):
    """Turn expected errors into one line on stderr and their exit code."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if debug and not isinstance(error, click.ClickException):
            raise
        sys.exit(_ended_by(error))
    finally:
        remove_unfinished()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `flashvsr-trt` and of `python -m flashvsr_trt`."""
    gc.set_threshold(*GARBAGE)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    FINISHED.clear()
    prepare_streams()
    debug = "--debug" in arguments
    with (
        guarded_streams(),
        displayed(),
        ended_by_signals(),
        reported_errors(debug),
        named_missing_parts(),
    ):
        # The command that mends a config must not fail of it.
        defaults = {} if arguments[:1] == ["config"] else read_config(cli)
        cli.main(
            arguments, prog_name="flashvsr-trt", standalone_mode=False, obj=arguments, default_map=defaults
        )
        sys.stdout.flush()

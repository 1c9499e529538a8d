"""Standard streams, which may be closed; notices, progress and tables, drawn where there is a terminal."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def prepare_streams() -> None:
    """Put the null device where a standard stream was closed (`2>&-`): a file must not get its number.

    As stdout it cannot be written, so that data for a closed one is an error; what is only said goes nowhere.
    File names that are no text are printed escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:  # Python's own stream of a closed descriptor
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence_stdout() -> None:
    """What is still buffered goes to the null device, so that Python's own flush at exit says nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def plain_reason(error: OSError | MemoryError) -> str:
    """What the system refused, in a sentence that says what to do."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; use a smaller input or scale, or preset nano"
    name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{name}{reason}; check the name, the permissions and the space on the disk"


LINE_SECONDS = 5.0
"""How often a plain line is written."""


def say(line: str) -> None:
    """A notice for the user; stdout stays free for data. Names that are no text are shown escaped."""
    with suppress(BrokenPipeError):  # whoever read the notices has gone
        click.echo(line.encode("utf-8", "backslashreplace").decode(), err=True)


@contextmanager
def show_progress(doing: str = "upscaling") -> Iterator[Callable[[int, int | None], None]]:
    """Gives `progress(done, total)` of frames; total None is not known."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    shown = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(TextColumn(doing), *shown, console=console) as bar:
        task, started = bar.add_task(doing, total=None, rate=""), time.perf_counter()

        def progress(done: int, total: int | None) -> None:
            rate = done / max(time.perf_counter() - started, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:.2f} FPS")

        yield progress


def _lines() -> Callable[[int, int | None], None]:
    started = time.perf_counter()
    next_line = 0.0

    def progress(done: int, total: int | None) -> None:
        nonlocal next_line
        elapsed = time.perf_counter() - started
        if elapsed >= next_line or done == total:
            next_line = elapsed + LINE_SECONDS
            of_total = f" of {total}" if total is not None else ""
            print(
                f"{done}{of_total} frames, {done / max(elapsed, 1e-9):.2f} FPS", file=sys.stderr, flush=True
            )

    return progress


Row = TypeVar("Row")


def print_table(columns: Mapping[str, Callable[[Row], str]], rows: Iterable[Row]) -> None:
    """Print the columns of each row under their names; plain lines have two spaces between cells."""
    lines = [[cell(row) for cell in columns.values()] for row in rows]
    console = Console()
    if not console.is_terminal:
        for line in (columns, *lines):
            click.echo("  ".join(line))
        return
    table = Table(*columns)
    for line in lines:
        table.add_row(*line)
    console.print(table)

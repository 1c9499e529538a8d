"""Drawn on a terminal, plain lines elsewhere: progress over frames on stderr, tables on stdout."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

LINE_SECONDS = 5.0
"""How often a plain line is written."""


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

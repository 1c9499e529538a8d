"""Standard streams, which may be closed; tables, drawn where there is a terminal."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import click
from rich.console import Console
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

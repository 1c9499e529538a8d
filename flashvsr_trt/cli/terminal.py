"""Standard streams, which may be closed; tables, drawn where there is a terminal."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table

from flashvsr_trt.errors import FileError


def prepare_streams() -> None:
    """Put the null device where a standard stream was closed (`2>&-`): a file must not get its number.

    As stdout it cannot be written, so that data for a closed one is an error; what is only said goes nowhere.
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


class _Guarded(io.TextIOWrapper):
    """A standard stream; what follows its first failure goes to the null device.

    Args:
        output: what it is called if it carries output, whose loss is an error; None if it carries messages.
    """

    def __init__(self, stream: io.TextIOWrapper, output: str | None) -> None:
        options = {"errors": "backslashreplace", "line_buffering": stream.line_buffering}
        super().__init__(stream.buffer, stream.encoding, **options)
        self.output = output

    def write(self, text: str) -> int:
        with self._guarded():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            super().flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self.output:
                raise FileError(f"{self.output} cannot be written: {error.strerror}") from error


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Inside, messages that stderr does not take are lost; output that stdout does not take is an error.

    File names that are no text are printed escaped.
    """
    if not (isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stderr, io.TextIOWrapper)):
        yield  # a program that calls the command has put its own there
        return
    output, messages = _Guarded(sys.stdout, "stdout"), _Guarded(sys.stderr, None)
    with redirect_stdout(output), redirect_stderr(messages):
        try:
            yield
        finally:
            with suppress(FileError):  # after another error
                output.flush()
            output.detach()
            messages.detach()


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

"""Tables on stdout: drawn on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table

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

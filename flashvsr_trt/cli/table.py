"""Tables on stdout: drawn on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text under their header; plain lines have two spaces between cells."""
    if sys.stdout.isatty():
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    for row in (header, *rows):
        click.echo("  ".join(row))

"""`flashvsr-trt cache`: list and prune what can be made again."""

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from flashvsr_trt.cache.folder import cache_folder, cache_root
from flashvsr_trt.cli.commands import Group
from flashvsr_trt.cli.display import say
from flashvsr_trt.cli.options import JSON
from flashvsr_trt.cli.terminal import print_table
from flashvsr_trt.errors import CacheError, UsageError

if TYPE_CHECKING:
    from flashvsr_trt.cache.contents import CacheEntry

_KINDS = ("bundles", "engines", "kernels", "timings")
_COLUMNS: "dict[str, Callable[[CacheEntry], str]]" = {
    "kind": lambda entry: entry.kind,
    "name": lambda entry: entry.path.name,
    "MB": lambda entry: f"{entry.size_bytes / 1e6:,.1f}",
    "age": lambda entry: _age(entry.age_seconds),
    "state": lambda entry: entry.state,
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_KIND = click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Only of this kind; may be repeated."
)


@click.group(cls=Group)
def cache() -> None:
    """List and prune what was exported, built and compiled, and can be again."""


@cache.command("list")
@_KIND
@click.option("--older-than", metavar="AGE", help="Only what was written before: 30d, 12h.")
@JSON
def list_command(kinds: tuple[str, ...], older_than: str | None, as_json: bool) -> None:
    """List bundles, engines, kernels and timings, with sizes and ages."""
    entries = _entries(kinds, older_than)
    if as_json:
        click.echo(json.dumps([entry.as_dict() for entry in entries], indent=2))
        return
    print_table(_COLUMNS, entries)
    total = sum(entry.size_bytes for entry in entries)
    click.echo(f"{cache_root()}: {len(entries)} entries, {total / 1e6:,.1f} MB")


@cache.command()
@_KIND
@click.option("--older-than", metavar="AGE", help="Whole entries too, that were written before: 30d, 12h.")
@click.option("--all", "everything", is_flag=True, help="All entries.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@JSON
def prune(
    kinds: tuple[str, ...], older_than: str | None, everything: bool, dry_run: bool, as_json: bool
) -> None:
    """Remove what was set aside as damaged or left by killed runs; with --older-than or --all, entries too.

    What another process reads or makes stays.
    """
    from flashvsr_trt.cache.contents import WHOLE

    whole_too = everything or older_than is not None
    chosen = [entry for entry in _entries(kinds, older_than) if whole_too or entry.state != WHOLE]
    removed = remove_entries({entry: entry.state for entry in chosen}, dry_run, told=not as_json)
    if as_json:
        click.echo(json.dumps([entry.as_dict() for entry in removed], indent=2))
        return
    size = sum(entry.size_bytes for entry in removed)
    click.echo(f"{len(removed)} {'to remove' if dry_run else 'removed'}, {size / 1e6:,.1f} MB")


def remove_entries(
    reasons: "Mapping[CacheEntry, str]", dry_run: bool, told: bool = True
) -> "list[CacheEntry]":
    """Those that were removed, or would be, `told` with their reasons; why another one stays is said."""
    from flashvsr_trt.cache.contents import remove_entry

    removed = []
    for entry, reason in reasons.items():
        try:
            if not dry_run:
                remove_entry(entry)
        except CacheError as error:
            say(f"kept: {error}")
            continue
        removed.append(entry)
        if told:
            click.echo(f"{'would remove' if dry_run else 'removed'} {entry.kind} {entry.path.name}: {reason}")
    return removed


def seconds_of(age: str) -> int:
    """An age like 30d, 12h, 90m, 2w or 45s. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", age)
    if not found:
        raise UsageError(f"'{age}' is no age; write 30d, 12h, 90m, 2w or 45s")
    return int(found[1]) * _UNITS[found[2]]


def _entries(kinds: tuple[str, ...], older_than: str | None) -> "list[CacheEntry]":
    from flashvsr_trt.cache.contents import list_entries

    least = seconds_of(older_than) if older_than else 0
    # Kernels and timings lie with the engines that they are for.
    folders = {"bundles": cache_folder("bundles"), "engines": cache_folder("engines")}
    folders |= {kind: folders["engines"] / kind for kind in ("kernels", "timings")}
    found = list_entries({kind: folders[kind] for kind in kinds or _KINDS})
    return [entry for entry in found if entry.age_seconds >= least]


def _age(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"

"""`flashvsr-trt gate`: this checkout beside another commit, or beside the baselines of this machine."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from bench.gate import baselines, report
from bench.gate.cases import GPU, Case, case_names, choose, has_gate, is_here, read_cases, read_thresholds
from bench.gate.compare import compare_trees, lost_cases
from bench.gate.measure import ROOT
from bench.gate.trees import Worker, git, python_of, worktree
from bench.gate.verdict import Line, accepted, overall, raise_failure
from flashvsr_trt.cli.display import say
from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.new import new_report
from flashvsr_trt.files.targets import STANDARD_STREAM, check_outputs, local_path

TRAILER = "Gate-accepts"
"""Of a commit message: `Gate-accepts: counts/chunk:operators one add more, for the new mask`."""

DEFAULT_BASE = "HEAD^"


def shared_options(command: Callable) -> Callable:
    """What all three commands take."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace the reports if they exist."),
        click.option("--markdown", "markdown_file", metavar="FILE", help="Write a report; - for stdout."),
        click.option("--json", "json_file", metavar="FILE", help="Write the numbers; - for stdout."),
        click.option("--no-gpu", is_flag=True, help="Leave out the cases of a GPU, even if there is one."),
        click.option("--case", "patterns", multiple=True, metavar="GLOB", help="Only these, say 'counts/*'."),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@click.option("--base", metavar="REF", help=f"A commit, or a checkout's folder.  [default: {DEFAULT_BASE}]")
@click.option("--fault", hidden=True)
@shared_options
@click.pass_context
def gate(
    context: click.Context,
    base: str | None,
    fault: str | None,
    patterns: Sequence[str],
    no_gpu: bool,
    **files,
) -> None:
    """Compare this checkout with commit REF: parity, latency, memory, counts. See docs/gate.md.

    Exit codes: 0 passed; 4 a regression, or a gain that is improbable; 1 a case could not be measured;
    5 too few records (check); 6 no records of this fingerprint (check); 2 an option.
    """
    if context.invoked_subcommand:
        return
    commit = git(ROOT, "rev-parse", "--verify", "--quiet", f"{base or DEFAULT_BASE}^{{commit}}")
    is_shallow = git(ROOT, "rev-parse", "--is-shallow-repository") == "true"
    hint = ", for this clone is shallow: git fetch --unshallow" if is_shallow else ""
    if commit is None and not base:
        say(f"nothing is compared: there is no {DEFAULT_BASE} here{hint}")
        return
    if commit is None and not has_gate(Path(base or "")):
        raise UsageError(f"--base {base}: git knows no such commit{hint}, and it is no folder of a checkout")
    check_reports(**files)
    cases = chosen(patterns, no_gpu)
    with ExitStack() as stack:
        tree = stack.enter_context(worktree(ROOT, commit)) if commit else Path(base or "").resolve()
        known = case_names(tree)
        if not known:
            say(f"{base or DEFAULT_BASE} has no gate: every case is new")
        head_tree = stack.enter_context(Worker(ROOT, fault=fault))
        base_tree = stack.enter_context(Worker(tree, python_of(tree, ROOT, say))) if known else head_tree
        lines = compare_trees(base_tree, head_tree, cases, known, read_thresholds(ROOT), say)
    if not patterns:
        lines += lost_cases(known, read_cases(ROOT))
    lines = accepted(lines, reasons(commit) if commit else {})
    finish(lines, {"base": commit[:10] if commit else base, "head": head_commit()}, cases, **files)


@gate.command()
@shared_options
def check(patterns: Sequence[str], no_gpu: bool, **files) -> None:
    """Compare this checkout with the baselines of this machine, where there are some."""
    check_reports(**files)
    cases = [case for case in chosen(patterns, no_gpu) if baselines.can_be_kept(case)]
    with Worker(ROOT) as worker:
        lines = baselines.check(ROOT, worker, cases, read_thresholds(ROOT))
    finish(lines, {"baselines": str(baselines.FOLDER)}, cases, **files)


@gate.command()
@click.option("--case", "patterns", multiple=True, metavar="GLOB", help="Only these, say 'memory/*'.")
def record(patterns: Sequence[str]) -> None:
    """Add a record of this checkout to the baselines of this machine, under bench/baselines/."""
    cases = sorted(filter(baselines.can_be_kept, chosen(patterns)), key=lambda case: case.preset)
    with Worker(ROOT) as worker:
        for preset, group in groupby(cases, key=lambda case: case.preset):
            values = {case.name: baselines.measure(worker, case) for case in group}
            print_ = baselines.fingerprint(preset)
            path = baselines.baseline_path(ROOT, print_)
            baselines.add_record(path, print_, head_commit(), values)
            count = len(baselines.read_records(path))
            click.echo(f"{path.relative_to(ROOT)}: {count} of {baselines.NEEDED} records needed")


def chosen(patterns: Sequence[str], no_gpu: bool = False) -> list[Case]:
    """The cases to measure here; those left out are said in one line."""
    has = lambda need: is_here(need) and not (no_gpu and need == GPU)  # noqa: E731
    cases, lacking = choose(read_cases(ROOT).values(), patterns, has)
    for need, names in lacking.items():
        if not (no_gpu and need == GPU):
            say(f"left out, for want of {need}: {', '.join(names)}")
    if not cases:
        raise UsageError("no case is left to measure here")
    return cases


def head_commit() -> str:
    """What is measured: the commit, and whether files differ from it."""
    return git(ROOT, "describe", "--always", "--exclude=*", "--dirty=+ changes", "--abbrev=10") or "unknown"


def reasons(base: str) -> dict[str, str]:
    """Pattern of a line -> why it may change, as the commits since the base say."""
    trailers = git(ROOT, "log", f"--format=%(trailers:key={TRAILER},valueonly)", f"{base}..HEAD") or ""
    split = (line.strip().partition(" ") for line in trailers.splitlines() if line.strip())
    return {pattern: why or "accepted without a reason" for pattern, _, why in split}


def check_reports(json_file: str | None, markdown_file: str | None, overwrite: bool) -> None:
    """Before anything is measured: refuses what could not be written then."""
    check_outputs({"--json": json_file, "--markdown": markdown_file}, (), overwrite)


def finish(
    lines: list[Line],
    about: dict[str, Any],
    cases: Iterable[Case],
    json_file: str | None,
    markdown_file: str | None,
    overwrite: bool,
) -> None:
    """Writes the reports, prints what matters, and raises what the verdict stands for."""
    trend = baselines.trend(ROOT, (case.preset for case in cases))
    text = report.markdown(lines, about, trend)
    write(json_file, json.dumps(report.as_json(lines, about, trend), indent=1) + "\n", overwrite)
    write(markdown_file, text, overwrite)
    if STANDARD_STREAM not in (json_file, markdown_file):
        click.echo(text.partition("<details>")[0].rstrip())
    raise_failure(lines)
    say(f"gate: {overall(lines)}")


def write(path: str | None, text: str, overwrite: bool) -> None:
    """To a file, or to stdout."""
    if path == STANDARD_STREAM:
        click.echo(text, nl=False)
    elif path:
        with new_report(local_path(path), overwrite=overwrite) as write_text:
            write_text(text)

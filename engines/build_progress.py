"""Progress of an engine build: a bar on a terminal, one plain line an engine elsewhere. Always on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flashvsr_trt.engines.build import BuildProgress, ReportProgress


@contextmanager
def show_build_progress() -> Iterator[ReportProgress]:
    """Gives `report(progress)`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    with Progress(
        TextColumn("{task.fields[engine]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("building", total=None, engine="building", phase="")

        def report(progress: BuildProgress) -> None:
            phase = f"{progress.phase} {progress.step}/{progress.steps}" if progress.phase else ""
            done = progress.number - 1
            bar.update(task, completed=done, total=progress.engines, engine=progress.engine, phase=phase)

        yield report


def _line(progress: BuildProgress) -> None:
    if not progress.phase:
        print(
            f"building {progress.engine}, {progress.number} of {progress.engines}",
            file=sys.stderr,
            flush=True,
        )

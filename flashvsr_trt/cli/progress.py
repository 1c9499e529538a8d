"""Progress over frames: a bar on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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

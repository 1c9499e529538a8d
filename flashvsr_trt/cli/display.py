"""What a command shows on stderr: messages and bars of one console, plain lines, or one JSON object a line.

All messages are records of the `flashvsr_trt` log, so a log file holds what the screen shows, and more.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from flashvsr_trt.errors import UsageError
from flashvsr_trt.notices import Report, watched_phases

LOG = logging.getLogger("flashvsr_trt")

PYTHON_WARNINGS = logging.getLogger("py.warnings")

NOTICE = 25
"""The level of what a user should know; between INFO, for who looks for a fault, and WARNING."""
logging.addLevelName(NOTICE, "NOTICE")

STYLES = ("auto", "bar", "plain", "json", "none")
"""How progress is shown; auto is a bar on a terminal and plain lines elsewhere."""

LINE_SECONDS = 5.0
"""How often a plain line is written."""

JSON_SECONDS = 0.5


@dataclass
class Pace:
    """Units a second of a phase, from the first that was done on: what comes before is getting ready."""

    now: float
    first: tuple[float, int] | None = None

    def at(self, now: float, done: int, total: int | None) -> tuple[float | None, float | None]:
        """Units a second and seconds left, as far as they are known."""
        if self.first is None and done:
            self.first = now, done
        since, before = self.first or (now, done)
        if done <= before or now <= since:
            return None, None
        rate = (done - before) / (now - since)
        return rate, (total - done) / rate if total is not None else None


Show = Callable[[int, int | None, str, float | None, float | None], None]
"""Shows a report: units done and in all, what is worked on, units a second, seconds left."""


def paced(show: Show, seconds: float, unit: str) -> Report:
    """A report that is shown every so many seconds, at the end, and when the first rate of frames is known.

    Whoever waits wants to know how long.
    """
    started = time.perf_counter()
    pace, due, rated = Pace(started), started, False

    def report(done: int, total: int | None = None, detail: str = "") -> None:
        nonlocal due, rated
        now = time.perf_counter()
        rate, left = pace.at(now, done, total)
        first_rate = unit == "frames" and rate is not None and not rated
        if now < due and done != total and not first_rate:
            return
        rated = rated or first_rate
        due = now + seconds
        show(done, total, detail, rate, left)

    return report


def words(done: int, total: int | None, unit: str, rate: float | None, left: float | None) -> str:
    """`29 of 48 frames, 1.72 FPS, 0:11 left`."""
    parts = [f"{done:,}{f' of {total:,}' if total is not None else ''} {unit}".rstrip()] if unit else []
    if rate is not None and unit == "frames":
        parts.append(f"{rate:.2f} FPS")
    if left:
        parts.append(f"{clock(left)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """`0:11`, `2:05:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@dataclass
class Display:
    """What the options of a command say of its output on stderr; `verbosity` -1 is quiet."""

    style: str = "auto"
    verbosity: int = 0
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    bars: Progress | None = None

    @property
    def shown_style(self) -> str:
        if self.style == "auto":
            return "bar" if self.console.is_terminal else "plain"
        return self.style

    def write(self, text: str, kind: str = "") -> None:
        """One message, above the bars where there are some."""
        if self.console.is_terminal:
            self.console.print(Text(text, style=kind))
        else:
            click.echo(text, err=True)

    def write_json(self, event: str, **facts: Any) -> None:
        click.echo(json.dumps({"event": event, **facts}, allow_nan=False), err=True)

    @contextmanager
    def phase(self, name: str, unit: str) -> Iterator[Report]:
        """A `notices.WatchPhase`. Where nothing is counted, plain lines would have nothing to say of it."""
        style = "none" if self.verbosity < 0 else self.shown_style
        ways = {"bar": (self._bar, 0.0), "json": (self._objects, JSON_SECONDS)}
        if unit:
            ways["plain"] = self._lines, LINE_SECONDS
        if style not in ways:
            yield lambda done, total=None, detail="": None
            return
        way, seconds = ways[style]
        with way(name, unit) as show:
            yield paced(show, seconds, unit)

    @contextmanager
    def _bar(self, name: str, unit: str) -> Iterator[Show]:
        outermost = self.bars is None
        if self.bars is None:
            columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=None)
            words_column = TextColumn("{task.fields[words]}", markup=False)
            self.bars = Progress(*columns, words_column, console=self.console, transient=True, expand=True)
            self.bars.start()
        bars = self.bars
        task = bars.add_task(name, total=None, words="")

        def show(done: int, total: int | None, detail: str, rate: float | None, left: float | None) -> None:
            said = ", ".join(filter(None, (words(done, total, unit, rate, left), detail)))
            described = "first frames" if unit == "frames" and not done else name
            # The bar pulses until the first unit is done.
            bars.update(
                task, completed=done, total=total if done else None, description=described, words=said
            )

        try:
            yield show
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self.bars = None

    @contextmanager
    def _lines(self, name: str, unit: str) -> Iterator[Show]:
        last = ""

        def show(done: int, total: int | None, detail: str, rate: float | None, left: float | None) -> None:
            nonlocal last
            line = words(done, total, unit, rate, left)
            if unit != "frames":
                line = f"{name}: {', '.join(filter(None, (line, detail)))}"
            if line != last:
                self.write(line)
            last = line

        yield show

    @contextmanager
    def _objects(self, name: str, unit: str) -> Iterator[Show]:
        started = time.perf_counter()

        def show(done: int, total: int | None, detail: str, rate: float | None, left: float | None) -> None:
            facts = {"phase": name, "done": done, "total": total, "unit": unit, "detail": detail}
            times = {"per_second": rate, "seconds": time.perf_counter() - started, "seconds_left": left}
            self.write_json("progress", **facts, **times)

        self.write_json("phase", phase=name, state="begun")
        yield show
        self.write_json("phase", phase=name, state="done", seconds=time.perf_counter() - started)


LOG_HEADER = "# log of flashvsr-trt"


class LogFile(logging.FileHandler):
    """All records, appended to a file that is a log or is not there yet.

    Raises:
        UsageError: it is something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            if path.exists() and path.stat().st_size and not _is_log(path):
                raise UsageError(f"--log-file {path} exists and is no log; name another file")
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
            with path.open("a", encoding="utf-8") as log:
                log.write(f"{LOG_HEADER}\n")
        except OSError as error:
            reason = f"--log-file {path} cannot be written ({error.strerror}); name another file"
            raise UsageError(reason) from error
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """The log ends here: no command depends on it."""
        LOG.removeHandler(self)
        LOG.warning("--log-file %s ends: %s", self.baseFilename, sys.exc_info()[1])


def _is_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LOG_HEADER)) == LOG_HEADER.encode()


class ToDisplay(logging.Handler):
    """Log records as messages of the display."""

    KINDS = ((logging.ERROR, "error", "red"), (logging.WARNING, "warning", "yellow"), (NOTICE, "notice", ""))

    def emit(self, record: logging.LogRecord) -> None:
        threshold = {-1: logging.ERROR, 0: NOTICE, 1: logging.INFO}.get(DISPLAY.verbosity, logging.DEBUG)
        # Warnings of Python's are about code, not about what the user does.
        level = logging.INFO if record.name == PYTHON_WARNINGS.name else record.levelno
        if level < threshold:
            return
        known = ((name, style) for least, name, style in self.KINDS if level >= least)
        kind, style = next(known, ("detail", "dim"))
        text = record.getMessage().encode("utf-8", "backslashreplace").decode()
        if DISPLAY.style == "json":
            DISPLAY.write_json("message", level=kind, text=text)
        else:
            DISPLAY.write(f"error: {text}" if kind == "error" else text, style)


DISPLAY = Display()
"""Of the command that runs; `displayed` begins a new one."""


@contextmanager
def displayed() -> Iterator[None]:
    """Inside, the log, Python's warnings and phases are shown as the options of the command say."""
    vars(DISPLAY).update(vars(Display()))
    handler, before = ToDisplay(), (LOG.level, LOG.propagate)
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    logging.captureWarnings(True)
    PYTHON_WARNINGS.addHandler(handler)
    try:
        with watched_phases(DISPLAY.phase):
            yield
    finally:
        if DISPLAY.bars:
            DISPLAY.bars.stop()
        logging.captureWarnings(False)
        PYTHON_WARNINGS.removeHandler(handler)
        for each in [each for each in LOG.handlers if each is handler or isinstance(each, LogFile)]:
            LOG.removeHandler(each)
            each.close()
        LOG.setLevel(before[0])
        LOG.propagate = before[1]


def say(line: str) -> None:
    """A notice for the user; stdout stays free for data. Names that are no text are shown escaped."""
    LOG.log(NOTICE, "%s", line)

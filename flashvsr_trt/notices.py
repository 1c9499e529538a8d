"""How a user is told what was chosen, made or left out, in one line each, and how far long work has come."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

Notify = Callable[[str], None]
"""Gets one line for each thing a user should know."""

_LOGGER = logging.getLogger("flashvsr_trt")
# A library prints nothing: without this logging would, where the program has not set it up.
_LOGGER.addHandler(logging.NullHandler())

log_notice: Notify = _LOGGER.warning


class Report(Protocol):
    """How far a phase has come."""

    def __call__(self, done: int, total: int | None = None, detail: str = "") -> None:
        """`done` of `total` units (None: nobody knows), and what is being worked on. From any thread."""


WatchPhase = Callable[[str, str], AbstractContextManager[Report]]
"""Begins to show a phase of a name, in units of a name, and ends with the block."""

_WATCH: ContextVar[WatchPhase | None] = ContextVar("watch_phase", default=None)


@contextmanager
def phase(name: str, unit: str = "") -> Iterator[Report]:
    """Work that takes a while, which `unit`s count: whoever watches is told. Gives `report`."""
    watch = _WATCH.get()
    if watch is None:
        yield lambda done, total=None, detail="": None
        return
    with watch(name, unit) as report:
        yield report


@contextmanager
def watched_phases(watch: WatchPhase) -> Iterator[None]:
    """Inside, in this thread, phases are shown by `watch`."""
    before = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(before)

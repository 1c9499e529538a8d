"""SIGTERM and SIGHUP end a command as Ctrl-C does: by an exception, after which everything is cleaned up."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

END_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""What users, shells, terminals and schedulers end a process with; SIGBREAK is Windows' SIGHUP."""

CLEANING_SECONDS = 10.0
"""How long further signals do not disturb the cleaning up."""


class Ended(KeyboardInterrupt):
    """A signal ended the command. Attribute `number`: which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _Commit:
    """Whether an output is being given its name, and the signal that came meanwhile."""

    depth: int = 0
    waiting: int | None = None


_COMMIT = _Commit()


@contextmanager
def signals_wait() -> Iterator[None]:
    """While inside, the signals of `ended_by_signals` wait: the renames of an output are not cut in two."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _COMMIT.depth += 1
    try:
        yield
    finally:
        _COMMIT.depth -= 1
        if _COMMIT.waiting is not None and not _COMMIT.depth:
            number, _COMMIT.waiting = _COMMIT.waiting, None
            raise Ended(number)


def exit_code(error: BaseException) -> int:
    """128 and the signal's number, as shells have it; a KeyboardInterrupt is SIGINT."""
    return 128 + getattr(error, "number", signal.SIGINT)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """While inside, the first signal raises Ended in the main thread.

    A signal that is ignored stays so (`nohup`), and so does a handler that someone else has set. In other
    threads than the main one nothing changes. Afterwards all is as before.
    """
    since: float | None = None

    def end(number: int, frame: object) -> None:
        nonlocal since
        if _COMMIT.depth:
            _COMMIT.waiting = number
        elif since is None or time.monotonic() - since > CLEANING_SECONDS:
            since = time.monotonic()
            raise Ended(number)

    with handled_by(end, (signal.SIG_DFL, signal.default_int_handler)):
        yield


@contextmanager
def handled_by(handler: Callable[[int, object], None], instead_of: tuple | None = None) -> Iterator[None]:
    """While inside, the end signals go to `handler`, unless they are ignored.

    Args:
        instead_of: the handlers that give way; None for any.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in END_SIGNALS:
            before = signal.getsignal(number)
            # None is a handler that was not set from Python, and could not be put back.
            if before not in (signal.SIG_IGN, None) and (instead_of is None or before in instead_of):
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def leave_end_to_system() -> None:
    """Die of the end signals at once, for a process that has nothing to clean up. Ignored ones stay so."""
    for number in END_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def end_with_parent() -> None:
    """Begin a thread that ends this process, one of multiprocessing's, when its parent is gone.

    Ctrl-C reaches a terminal's whole group: what it means is the parent's to decide, so it is ignored here.
    """
    from multiprocessing import connection, parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        raise RuntimeError("this process was not begun by multiprocessing")

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end with the parent", daemon=True).start()

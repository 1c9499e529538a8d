"""Ctrl-C in a build: the builder is asked to stop, and stops at its next step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Cancellation:
    """Whether the user wants to stop. Builders run long in native code, where no exception can be raised."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was asked for."""
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def cancel_on_interrupt() -> Iterator[Cancellation]:
    """While inside, Ctrl-C only makes the request. In other threads than the main one nothing changes."""
    cancellation = Cancellation()
    if threading.current_thread() is not threading.main_thread():
        yield cancellation
        return

    def request(number, frame) -> None:
        cancellation.requested = True

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield cancellation
    finally:
        signal.signal(signal.SIGINT, previous)

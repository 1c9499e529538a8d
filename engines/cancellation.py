"""Ctrl-C in a build, or another signal: the builder is asked to stop, and stops at its next step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from flashvsr_trt.signals import Ended, handled_by


class Cancellation:
    """Whether the user wants to stop. Builders run long in native code, where no exception can be raised."""

    def __init__(self) -> None:
        self.requested = False
        self.signal = int(signal.SIGINT)

    def check(self) -> None:
        """Raise Ended, a KeyboardInterrupt, if it was asked for."""
        if self.requested:
            raise Ended(self.signal)


@contextmanager
def cancel_on_interrupt() -> Iterator[Cancellation]:
    """While inside, Ctrl-C, SIGTERM and SIGHUP only make the request. In other threads nothing changes."""
    cancellation = Cancellation()

    def request(number: int, frame: object) -> None:
        cancellation.requested, cancellation.signal = True, number

    with handled_by(request):
        yield cancellation

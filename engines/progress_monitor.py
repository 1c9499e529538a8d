"""What a builder tells of its progress, and how it is asked to stop.

It calls from native code, where an exception ends the process: none leaves these calls. The first is kept,
the builder is stopped at its next step, and `raise_failure` raises it afterwards.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from flashvsr_trt.signals import Ended, handled_by

ReportPhase = Callable[[str, int, int], None]
"""Gets a phase of the builder, how many of its steps are done, and how many there are."""


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


def progress_monitor(trt: ModuleType, cancellation: Cancellation, report: ReportPhase) -> Any:
    """An `IProgressMonitor`. It has `raise_failure`, to be called when the builder has returned."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.failure: BaseException | None = None

        def phase_start(self, phase_name, parent_phase, num_steps) -> None:
            self.steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name, step) -> bool:
            self._tell(phase_name, step + 1)
            return not cancellation.requested and self.failure is None

        def phase_finish(self, phase_name) -> None:
            # Phases of one name may run side by side, and end twice.
            self.steps.pop(phase_name, None)

        def _tell(self, phase_name: str, done: int) -> None:
            if self.failure is not None:
                return
            try:
                report(phase_name, done, max(done, self.steps.get(phase_name, 0)))
            except BaseException as error:
                self.failure = error

        def raise_failure(self) -> None:
            if self.failure is not None:
                raise self.failure

    return Monitor()

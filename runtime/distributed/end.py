"""How rank 0 notices that torchrun ends the job, and says why, wherever its main thread is."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from flashvsr_trt.errors import DistributedError
from flashvsr_trt.files.staging import remove_unfinished

GRACE_SECONDS = 5.0
"""How long the main thread has to clean up and report before it is no longer waited for."""

BY_SIGNAL = "the job was ended by a signal"


JOB_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a job: torchrun sends on to its ranks what it got itself, and SIGTERM when a rank is gone."""


class EndWatch:
    """torchrun ends the other ranks by SIGTERM when one is gone.

    A main thread that runs Python gets a DistributedError. One that sits in a collective cannot get
    anything, so a thread reports in its place and ends the process.

    Args:
        reported: whether the main thread is at the error already.
        end: makes the error, of a text for an unknown cause.
    """

    def __init__(self, reported: Callable[[], bool], end: Callable[[str], DistributedError]) -> None:
        self.reported, self.end = reported, end
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        # Python hands a signal's number to this socket even while the main thread is in native code.
        signal.set_wakeup_fd(self.writer.fileno())
        self.previous = {
            number: signal.signal(number, self._raise)
            for number in JOB_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        threading.Thread(target=self._watch, name="end of the job", daemon=True).start()

    def close(self) -> None:
        """Back to the usual handling."""
        signal.set_wakeup_fd(-1)
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.writer.close()

    def _raise(self, *_: object) -> None:
        if not self.reported():
            raise self.end(BY_SIGNAL)

    def _watch(self) -> None:
        while received := self.reader.recv(1):
            if received[0] in self.previous:
                time.sleep(GRACE_SECONDS)
                if not self.reported():
                    print(f"error: {self.end(BY_SIGNAL)}", file=sys.stderr)
                remove_unfinished()
                leave_at_once(DistributedError.exit_code)
        self.reader.close()


def leave_at_once(exit_code: int) -> None:
    """End the process without the farewells of libraries, which would wait for ranks that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)

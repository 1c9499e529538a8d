"""Seconds of each stage on the device's own clock: events around its work, read when they are over."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

OPEN_SPANS = 64
"""Spans that may wait to be read; the oldest of so many is long over."""


@dataclass(frozen=True)
class Span:
    """One run of a stage. Times are seconds since the timer was made."""

    stage: str
    begin: float
    seconds: float


class StageTimer:
    """Adds up spans by stage.

    Args:
        keep: gets each span when it is read; for a trace.
    """

    def __init__(self, device: CudaDevice, stream: int, keep: Callable[[Span], None] | None = None) -> None:
        self.device, self.keep = device, keep
        self.origin = device.new_event()
        device.record(self.origin, stream)
        self.seconds: dict[str, float] = defaultdict(float)
        self.open: deque[tuple[str, int, int]] = deque()
        self.idle: list[int] = []

    @contextmanager
    def measure(self, stage: str, stream: int) -> Iterator[None]:
        """Time what the body puts on the stream, as part of `stage`."""
        begin, end = self._event(), self._event()
        self.device.record(begin, stream)
        yield
        self.device.record(end, stream)
        self.open.append((stage, begin, end))
        while len(self.open) > OPEN_SPANS:
            self._read()

    def read(self) -> dict[str, float]:
        """All seconds so far. Waits for the device only if it is still busy with a measured run."""
        while self.open:
            self._read()
        return dict(self.seconds)

    def _event(self) -> int:
        return self.idle.pop() if self.idle else self.device.new_event()

    def _read(self) -> None:
        stage, begin, end = self.open.popleft()
        self.device.wait_on_host(end)
        seconds = self.device.seconds_between(begin, end)
        self.seconds[stage] += seconds
        if self.keep:
            self.keep(Span(stage, self.device.seconds_between(self.origin, begin), seconds))
        self.idle += (begin, end)

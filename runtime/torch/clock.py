"""Seconds of each stage of the torch executor."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class StageClock:
    """Seconds spent in each stage: CUDA events on a GPU, so that timing does not make the host wait."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    open_events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=deque)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time the body as part of `stage`."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self.open_events.append((stage, begin, end))
            # A long clip would otherwise keep the events of all its calls.
            while self.open_events and self.open_events[0][2].query():
                self._close()
        else:
            started = time.perf_counter()
            yield
            self.seconds[stage] += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """All seconds so far. Waits for the device only if it is still busy with a measured call."""
        while self.open_events:
            self._close()
        return dict(self.seconds)

    def _close(self) -> None:
        stage, begin, end = self.open_events.popleft()
        end.synchronize()
        self.seconds[stage] += begin.elapsed_time(end) / 1000

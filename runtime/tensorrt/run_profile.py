"""Times of a run on the device's own clock: by stage, by layer, and as a trace for Perfetto."""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

MOST_LAYERS = 20
"""Layers that the table shows; the trace has all."""

_MICROSECONDS = 1e6

OPEN_SPANS = 64
"""Spans that may wait to be read; the oldest of so many is long over."""


@dataclass(frozen=True)
class Span:
    """One run of a stage. Times are seconds since the timer was made."""

    stage: str
    begin: float
    seconds: float


class StageTimer:
    """Adds up spans by stage: events around its work, read when they are over.

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


@dataclass(frozen=True)
class Layer:
    engine: str
    name: str
    seconds: float


@dataclass
class RunProfile:
    """What was recorded: spans of the stages, and the layers that ran in each, in order."""

    spans: list[tuple[Span, tuple[Layer, ...]]] = field(default_factory=list)
    started: deque[list[Layer]] = field(default_factory=deque)

    def start_stage(self) -> None:
        """Layers from now on are of a new run of a stage. Spans come in the order of these calls."""
        self.started.append([])

    def add_layer(self, engine: str, name: str, seconds: float) -> None:
        self.started[-1].append(Layer(engine, name, seconds))

    def add_span(self, span: Span) -> None:
        """The oldest stage that was started is over."""
        self.spans.append((span, tuple(self.started.popleft())))

    def table(self) -> list[str]:
        """Lines for a reader: every stage, then the layers that took longest."""
        stages: dict[str, list[float]] = defaultdict(list)
        layers: dict[tuple[str, str], list[float]] = defaultdict(list)
        for span, ran in self.spans:
            stages[span.stage].append(span.seconds)
            for layer in ran:
                layers[layer.engine, layer.name].append(layer.seconds)
        lines = [f"{'stage':<12} {'runs':>6} {'ms a run':>10} {'ms':>10}"]
        lines += [f"{name:<12} {_times(seconds)}" for name, seconds in stages.items()]
        longest = sorted(layers.items(), key=lambda item: -sum(item[1]))[:MOST_LAYERS]
        if longest:
            lines.append(f"{'layer':<12} {'runs':>6} {'ms a run':>10} {'ms':>10}")
        lines += [f"{engine:<12} {_times(seconds)}  {name}" for (engine, name), seconds in longest]
        return lines

    def trace_text(self) -> str:
        """Stages where they ran; layers end to end from their stage's begin: only their length is known."""
        events = []
        for span, ran in self.spans:
            events.append(_event(span.stage, span.stage, span.begin, span.seconds))
            begin = span.begin
            for layer in ran:
                events.append(_event(layer.name, f"{span.stage} layers", begin, layer.seconds, layer.engine))
                begin += layer.seconds
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}) + "\n"


def _times(seconds: list[float]) -> str:
    total = sum(seconds) * 1e3
    return f"{len(seconds):>6} {total / len(seconds):>10.3f} {total:>10.1f}"


def _event(name: str, row: str, begin: float, seconds: float, engine: str | None = None) -> dict[str, Any]:
    event = {"name": name, "ph": "X", "pid": "GPU", "tid": row}
    event |= {"ts": begin * _MICROSECONDS, "dur": seconds * _MICROSECONDS}
    return event | ({"args": {"engine": engine}} if engine else {})

"""Graphs of the stream with every tensor at its address: run once plainly, then captured and replayed."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from flashvsr_trt.engines.plan import EngineStep, SegmentPlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice
from flashvsr_trt.runtime.tensorrt.engine_runner import EngineContext, EngineRunner


@dataclass(frozen=True)
class BoundGraph:
    """A plan's steps on fixed addresses: the same work every time it is enqueued.

    Attributes:
        contexts: one for each engine, which all bindings share: each sets its addresses before it runs.
        bindings: engine -> the addresses of its inputs and outputs.
        addresses: of every tensor of the plan; `scratch` is that of the kernels' scratch memory.
        calls: what one run counts: {"dit/engine": 5, "select_blocks/aot": 4, ...}.
    """

    plan: SegmentPlan
    runner: EngineRunner
    contexts: Mapping[str, EngineContext]
    bindings: Mapping[str, Mapping[str, int]]
    addresses: Mapping[str, int]
    scratch: int
    calls: Counter[str]

    def enqueue(self, stream: int) -> None:
        """Every step in order: on one stream, each sees what those before it wrote."""
        for step in self.plan.steps:
            if isinstance(step, EngineStep):
                context = self.contexts[step.engine]
                context.bind(self.bindings[step.engine])
                context.enqueue(stream)
            else:
                ports = {**step.inputs, **step.outputs}
                addresses = {port: self.addresses[name] for port, name in ports.items()}
                self.runner.launch(self.plan, step, addresses, self.scratch, stream)

    def can_capture(self, stream: int) -> bool:
        return all(self.contexts[engine].can_capture(stream) for engine in self.bindings)


@dataclass(frozen=True)
class Replay:
    """A bound graph, and the CUDA graph of it where there is one."""

    bound: BoundGraph
    cuda_graph: int | None


class GraphCache:
    """The bound graphs of one clip, by what tells their addresses apart: the ring's slot and the like.

    Args:
        capture: whether to replay CUDA graphs; without them each run is enqueued step by step.
    """

    def __init__(self, device: CudaDevice, capture: bool) -> None:
        self.device, self.capture = device, capture
        self.replays: dict[Hashable, Replay] = {}

    def run(
        self, key: Hashable, bind: Callable[[], BoundGraph], stream: int, comes_again: bool = True
    ) -> BoundGraph:
        """Put one run on the stream. A key's first binds and runs plainly; it is kept if it comes again.

        Raises:
            DeviceError: an engine cannot be captured, or CUDA cannot.
            EngineError: an engine failed.
        """
        found = self.replays.get(key)
        if found is None:
            bound = bind()
            bound.enqueue(stream)
            if comes_again:
                graph = self._capture(key, bound, stream) if self.capture else None
                self.replays[key] = Replay(bound, graph)
            return bound
        if found.cuda_graph is None:
            found.bound.enqueue(stream)
        else:
            self.device.launch(found.cuda_graph, stream)
        return found.bound

    def release(self) -> None:
        """Give all graphs back; none may be running."""
        for replay in self.replays.values():
            if replay.cuda_graph is not None:
                self.device.destroy_graph(replay.cuda_graph)
        self.replays.clear()

    def _capture(self, key: Hashable, bound: BoundGraph, stream: int) -> int:
        # What the plain run set up lazily must be there before anything is recorded.
        self.device.synchronize(stream)
        if not bound.can_capture(stream):
            raise DeviceError(
                f"{bound.plan.graph} cannot be captured in a CUDA graph: run with --no-cuda-graphs"
            )
        self.device.begin_capture(stream)
        try:
            bound.enqueue(stream)
        except BaseException:
            self.device.abandon_capture(stream)
            raise
        try:
            return self.device.end_capture(stream, bound.runner.keeps_host_memory)
        except DeviceError as error:
            raise DeviceError(
                f"CUDA could not capture {bound.plan.graph} at {key}: {error}; run with --no-cuda-graphs"
            ) from error

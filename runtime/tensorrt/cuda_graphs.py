"""CUDA graphs of bound graphs: one for each set of addresses, captured after one plain run, then replayed."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from flashvsr_trt.errors import DeviceError
from flashvsr_trt.runtime.tensorrt.bound_graph import BoundGraph
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice


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
        """Put one run on the stream. A key's first binds, runs plainly, and is captured if it comes again.

        Raises:
            DeviceError: an engine cannot be captured, or CUDA cannot.
            EngineError: an engine failed.
        """
        found = self.replays.get(key)
        if found is None:
            bound = bind()
            bound.enqueue(stream)
            graph = self._capture(key, bound, stream) if self.capture and comes_again else None
            self.replays[key] = Replay(bound, graph)
            return bound
        if found.cuda_graph is None:
            found.bound.enqueue(stream)
        else:
            self.device.launch(found.cuda_graph, stream)
        return found.bound

    def forget(self, key: Hashable) -> None:
        """Drop a bound graph that was never captured."""
        del self.replays[key]

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

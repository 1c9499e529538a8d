"""The engines of a stream's graphs on the device: loaded, given one context each, and given back."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from flashvsr_trt.config.signatures import DECODE, stage_of
from flashvsr_trt.engines.plan import SegmentPlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.runtime.tensorrt.arena import Layout, aligned, place_by_lifetime
from flashvsr_trt.runtime.tensorrt.cuda_graphs import BoundGraph
from flashvsr_trt.runtime.tensorrt.device_memory import arena_sizes
from flashvsr_trt.runtime.tensorrt.engine_runner import Engine, EngineContext, EngineRunner, ReportLayer


@dataclass(frozen=True)
class GraphMemory:
    """How one graph uses its stage's arena: tensors between steps, then scratch of kernels and engines."""

    carried: Layout
    kernel_scratch: int
    engine_scratch: int

    @property
    def size(self) -> int:
        return self.carried.size + self.kernel_scratch + self.engine_scratch


class LoadedGraphs:
    """Graphs by name. Engines have one context each: it is made with them, before any frame comes.

    Args:
        streams: that each graph's engines run on.
        report: gets layer times.
    """

    def __init__(
        self,
        plans: Mapping[str, SegmentPlan],
        runner: EngineRunner,
        streams: Mapping[str, int],
        report: ReportLayer | None,
    ) -> None:
        self.plans, self.runner, self.streams, self.report = plans, runner, streams, report
        self.engines: dict[str, Engine] = {}
        self.contexts: dict[str, EngineContext] = {}
        self.memory: dict[str, GraphMemory] = {}
        self.arenas: dict[bool, int] = {}
        for graph in plans:
            self._load_engines(graph)
        self.arena_sizes = arena_sizes({graph: memory.size for graph, memory in self.memory.items()})

    def is_loaded(self, graph: str) -> bool:
        return all(name in self.engines for name in self.plans[graph].engines)

    def use_arenas(self, arenas: Mapping[bool, int]) -> None:
        """Make all contexts, in the arenas at these addresses: by whether it is decoding's."""
        self.arenas = dict(arenas)
        for graph in self.plans:
            self._make_contexts(graph)
        self.runner.keep_compiled()

    def load(self, graph: str) -> None:
        """Put a graph's engines on the device again.

        Raises:
            DeviceError: they need more scratch memory than the first time.
        """
        self._load_engines(graph)
        size, limit = self.memory[graph].size, self.arena_sizes[stage_of(graph) == DECODE]
        if size > limit:
            self.unload(graph)
            raise DeviceError(
                f"{graph} needs {size:,} bytes of working memory now, and had {limit:,} at the start"
            )
        self._make_contexts(graph)

    def unload(self, graph: str) -> None:
        """Give a graph's engines back. None may be running, and its bound graphs are of no use any more."""
        for name in self.plans[graph].engines:
            self.contexts.pop(name, None)
            self.engines.pop(name).close()

    def close(self) -> None:
        """Give everything back; nothing may be running."""
        self.runner.keep_compiled()
        for graph in self.plans:
            if self.is_loaded(graph):
                self.unload(graph)

    def bind(self, graph: str, edge: Mapping[str, int]) -> BoundGraph:
        """Give every tensor of a graph its address; `edge` has those of inputs and outputs."""
        plan, memory, arena = self.plans[graph], self.memory[graph], self.arenas[stage_of(graph) == DECODE]
        own = dict(edge) | {name: arena + offset for name, offset in memory.carried.offsets.items()}
        addresses = {name: own[plan.memory_of(name)] for name in plan.tensors}
        bindings = {
            step.engine: {name: addresses[name] for name in (*step.inputs, *step.outputs)}
            for step in plan.engine_steps
        }
        calls = Counter(f"{step.operator}/aot" for step in plan.kernels)
        calls[f"{graph}/engine"] = len(bindings)
        contexts = {engine: self.contexts[engine] for engine in bindings}
        kernel_scratch = arena + memory.carried.size
        return BoundGraph(plan, self.runner, contexts, bindings, addresses, kernel_scratch, calls)

    def _load_engines(self, graph: str) -> None:
        plan, runner, stream = self.plans[graph], self.runner, self.streams[graph]
        loaded = {name: runner.load(name, stream) for name in plan.engines}
        self.engines |= loaded
        kernels = [runner.scratch_bytes(plan, step) for step in plan.kernels]
        self.memory[graph] = GraphMemory(
            carried=place_by_lifetime(plan),
            kernel_scratch=aligned(max(kernels, default=0)),
            engine_scratch=aligned(max((engine.memory_bytes for engine in loaded.values()), default=0)),
        )

    def _make_contexts(self, graph: str) -> None:
        memory = self.memory[graph]
        scratch = self.arenas[stage_of(graph) == DECODE] + memory.carried.size + memory.kernel_scratch
        for name in self.plans[graph].engines:
            self.contexts[name] = self.engines[name].new_context(scratch, self.report)

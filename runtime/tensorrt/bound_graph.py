"""One graph of the stream with every tensor at its address, ready to be put on a CUDA stream."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from flashvsr_trt.engines.plan import EngineStep, SegmentPlan
from flashvsr_trt.runtime.tensorrt.arena import Layout
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
        """Whether a CUDA graph can hold all of it."""
        return all(self.contexts[engine].can_capture(stream) for engine in self.bindings)


@dataclass(frozen=True)
class GraphMemory:
    """How one graph uses its stage's arena: tensors between steps, then scratch of kernels and engines."""

    carried: Layout
    kernel_scratch: int
    engine_scratch: int

    @property
    def size(self) -> int:
        """Bytes of the arena that it needs."""
        return self.carried.size + self.kernel_scratch + self.engine_scratch


def bind_graph(
    plan: SegmentPlan,
    runner: EngineRunner,
    contexts: Mapping[str, EngineContext],
    memory: GraphMemory,
    arena: int,
    edge: Mapping[str, int],
) -> BoundGraph:
    """Give every tensor of a plan its address.

    Args:
        arena: address of the memory that `memory` describes.
        edge: addresses of the graph's inputs and outputs, by name.
    """
    own = dict(edge) | {name: arena + offset for name, offset in memory.carried.offsets.items()}
    addresses = {name: own[plan.memory_of(name)] for name in plan.tensors}
    kernel_scratch = arena + memory.carried.size
    bindings, calls = {}, Counter()
    for step in plan.steps:
        if isinstance(step, EngineStep):
            bindings[step.engine] = {name: addresses[name] for name in (*step.inputs, *step.outputs)}
            calls[f"{plan.graph}/engine"] += 1
        else:
            calls[f"{step.operator}/aot"] += 1
    own_contexts = {engine: contexts[engine] for engine in bindings}
    return BoundGraph(plan, runner, own_contexts, bindings, addresses, kernel_scratch, calls)

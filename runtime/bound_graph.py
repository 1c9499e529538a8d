"""One graph of the stream with every tensor at its address, ready to be put on a CUDA stream."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from flashvsr_trt.engines.plan import EngineStep, SegmentPlan
from flashvsr_trt.runtime.arena import Layout
from flashvsr_trt.runtime.engine_runner import Engine, EngineContext, EngineRunner, ReportLayer


@dataclass(frozen=True)
class BoundGraph:
    """A plan's steps on fixed addresses: the same work every time it is enqueued.

    Attributes:
        contexts: one for each engine, of this binding alone, since a CUDA graph may hold their runs.
        addresses: of every tensor of the plan; `scratch` is that of the kernels' scratch memory.
        calls: what one run counts: {"dit/engine": 5, "select_blocks/aot": 4, ...}.
    """

    plan: SegmentPlan
    runner: EngineRunner
    contexts: Mapping[str, EngineContext]
    addresses: Mapping[str, int]
    scratch: int
    calls: Counter[str]

    def enqueue(self, stream: int) -> None:
        """Every step in order: on one stream, each sees what those before it wrote."""
        for step in self.plan.steps:
            if isinstance(step, EngineStep):
                self.contexts[step.engine].enqueue(stream)
            else:
                ports = {**step.inputs, **step.outputs}
                addresses = {port: self.addresses[name] for port, name in ports.items()}
                self.runner.launch(self.plan, step, addresses, self.scratch, stream)

    def can_capture(self, stream: int) -> bool:
        """Whether a CUDA graph can hold all of it."""
        return all(context.can_capture(stream) for context in self.contexts.values())


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
    engines: Mapping[str, Engine],
    memory: GraphMemory,
    arena: int,
    edge: Mapping[str, int],
    report: ReportLayer | None,
) -> BoundGraph:
    """Give every tensor of a plan its address.

    Args:
        arena: address of the memory that `memory` describes.
        edge: addresses of the graph's inputs and outputs, by name.
        report: gets layer times.
    """
    own = dict(edge) | {name: arena + offset for name, offset in memory.carried.offsets.items()}
    addresses = {name: own[plan.memory_of(name)] for name in plan.tensors}
    kernel_scratch = arena + memory.carried.size
    contexts, calls = {}, Counter()
    for step in plan.steps:
        if isinstance(step, EngineStep):
            context = engines[step.engine].new_context(kernel_scratch + memory.kernel_scratch, report)
            context.bind({name: addresses[name] for name in (*step.inputs, *step.outputs)})
            contexts[step.engine] = context
            calls[f"{plan.graph}/engine"] += 1
        else:
            calls[f"{step.operator}/aot"] += 1
    return BoundGraph(plan, runner, contexts, addresses, kernel_scratch, calls)

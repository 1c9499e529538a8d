"""Cutting a graph at its custom nodes, for runtimes that take none: plain segments, and kernels between them.

Every node of a segment depends on the custom nodes of earlier segments only, so the pieces run one after
another. A graph without custom nodes is one segment.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from onnx.utils import Extractor

from flashvsr_trt.engines.plan import BEFORE, EngineStep, KernelStep, PlanTensor, SegmentPlan, Step
from flashvsr_trt.errors import EngineError
from flashvsr_trt.plugins.onnx_values import dtype_of, shape_of
from flashvsr_trt.plugins.sparse_attention import DOMAIN, OPERATORS

STANDARD_DOMAINS = ("", "ai.onnx")

VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Operators whose output holds the bytes of their first input, in the same order."""


@dataclass(frozen=True)
class LoweredGraph:
    """A plan, and the ONNX model of each engine that it runs. Weights stay where the graph refers to them."""

    plan: SegmentPlan
    segments: Mapping[str, ModelProto]


def lower_graph(path: Path) -> LoweredGraph:
    """Cut a bundle's graph at its custom nodes. Engines are called after the file: `dit.00`, `dit.01`, ...

    Raises:
        EngineError: the graph has a node of a domain that nothing here runs, or a custom node that takes a
            constant.
    """
    model = onnx.load(path, load_external_data=False)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    cut = _Cut(model.graph, path.stem)
    whole = Extractor(model)
    segments = {
        step.engine: _segment_model(whole, step) for step in cut.steps if isinstance(step, EngineStep)
    }
    plan = SegmentPlan(
        graph=path.stem,
        steps=tuple(cut.steps),
        tensors=cut.tensors(),
        inputs=tuple(value.name for value in model.graph.input),
        outputs=tuple(value.name for value in model.graph.output),
    )
    return LoweredGraph(plan, segments)


def keep_custom_nodes(path: Path) -> LoweredGraph:
    """A bundle's graph as one engine, called after the file, for runtimes with a plugin for each custom node.

    The nodes' functions are left out: a plugin is all that may compute them.
    """
    model = onnx.load(path, load_external_data=False)
    del model.functions[:]
    model.graph.name = path.stem
    inputs = tuple(value.name for value in model.graph.input)
    outputs = tuple(value.name for value in model.graph.output)
    step = EngineStep(path.stem, inputs, outputs)
    tensors = {value.name: _plan_tensor(value, None, BEFORE, last_read=0) for value in model.graph.input}
    tensors |= {value.name: _plan_tensor(value, None, 0, last_read=1) for value in model.graph.output}
    plan = SegmentPlan(path.stem, (step,), tensors, inputs, outputs)
    return LoweredGraph(plan, {path.stem: model})


def custom_nodes(model: ModelProto) -> list[str]:
    """Nodes that are no standard operators, inside control flow as well: "name (domain::operator)"."""
    return [
        f"{node.name} ({node.domain}::{node.op_type})"
        for node in _all_nodes(model.graph)
        if node.domain not in STANDARD_DOMAINS
    ]


class _Cut:
    """One graph's nodes in segments, and what is bound where."""

    def __init__(self, graph: GraphProto, name: str) -> None:
        self.graph = graph
        self.constants = {tensor.name for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.values = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
        self.roots = _view_roots(graph)
        waves = self._waves()
        self._materialise(waves)
        self.steps: list[Step] = []
        live = [nodes for nodes in map(self._live_nodes, waves) if nodes]
        engines = sum(not _is_custom(nodes[0]) for nodes in live)
        names = iter([name] if engines == 1 else [f"{name}.{n:02d}" for n in range(engines)])
        for nodes in live:
            if _is_custom(nodes[0]):
                self.steps += map(self._kernel_step, nodes)
            else:
                self.steps.append(self._engine_step(next(names), nodes))

    def tensors(self) -> dict[str, PlanTensor]:
        """Every tensor that a step binds, with its lifetime."""
        written = dict.fromkeys(self.inputs, BEFORE)
        last_read = dict.fromkeys(self.outputs, len(self.steps)) | dict.fromkeys(self.inputs, BEFORE)
        for index, step in enumerate(self.steps):
            for name in _bound(step.outputs):
                written[name] = index
                last_read.setdefault(name, index)
            for name in _bound(step.inputs):
                last_read[name] = max(index, last_read.get(name, index))
                memory = self.storage.get(name)
                if memory:
                    last_read[memory] = max(index, last_read.get(memory, index))
        written |= {view: written[memory] for view, memory in self.storage.items()}
        return {
            name: _plan_tensor(self.values[name], self.storage.get(name), written[name], last)
            for name, last in last_read.items()
        }

    def _waves(self) -> list[list[NodeProto]]:
        """Nodes by the number of custom and plain waves before them: even ones are plain, odd ones custom."""
        wave_of = dict.fromkeys([*self.inputs, *self.constants, ""], 0)
        waves: dict[int, list[NodeProto]] = {}
        for node in self.graph.node:
            after = max((wave_of[name] for name in node.input), default=0)
            wave = after + (after % 2 != _is_custom(node))
            waves.setdefault(wave, []).append(node)
            wave_of.update(dict.fromkeys(node.output, wave))
        self.wave_of = wave_of
        return [waves.get(wave, []) for wave in range(max(waves, default=0) + 1)]

    def _materialise(self, waves: list[list[NodeProto]]) -> None:
        """Choose one tensor to hold the memory of each value that crosses; the others are views of it."""
        crossing = dict.fromkeys(self.outputs)
        for number, nodes in enumerate(waves):
            for node in nodes:
                for name in node.input:
                    if name and name not in self.constants and self.wave_of[name] != number:
                        crossing[name] = None
        held = {self.roots[name]: name for name in self.inputs}
        self.storage: dict[str, str] = {}
        # Outputs come first: a graph's output needs memory of its own in any case.
        for name in crossing:
            root = self.roots[name]
            is_output = name in self.outputs
            same_wave = root in held and self._written_together(held[root], name)
            if is_output or not same_wave:
                held.setdefault(root, name)
            elif held[root] != name:
                self.storage[name] = held[root]
        self.crossing = set(crossing) - set(self.storage)

    def _written_together(self, memory: str, view: str) -> bool:
        return memory in self.inputs or self.wave_of[memory] == self.wave_of[view]

    def _live_nodes(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """The nodes that something beyond their segment needs."""
        needed, live = set(self.crossing), []
        for node in reversed(nodes):
            if needed & set(node.output):
                live.append(node)
                needed.update(node.input)
        return live[::-1]

    def _engine_step(self, name: str, nodes: list[NodeProto]) -> EngineStep:
        made = {output for node in nodes for output in node.output}
        read = dict.fromkeys(tensor for node in nodes for tensor in node.input if tensor)
        return EngineStep(
            name,
            inputs=tuple(tensor for tensor in read if tensor not in made | self.constants),
            outputs=tuple(output for node in nodes for output in node.output if output in self.crossing),
        )

    def _kernel_step(self, node: NodeProto) -> KernelStep:
        known = {operator.name: operator for operator in OPERATORS}
        if node.domain != DOMAIN or node.op_type not in known:
            raise EngineError(
                f"{node.name} is a {node.domain}::{node.op_type}, which is neither a standard operator nor "
                f"one of: {', '.join(f'{DOMAIN}::{name}' for name in known)}"
            )
        operator = known[node.op_type]
        constant = [name for name in node.input if name in self.constants]
        if constant:
            raise EngineError(f"{node.name} takes the constant {constant[0]}: a kernel's inputs are computed")
        return KernelStep(
            node=node.name,
            operator=operator.name,
            inputs=dict(zip((port.name for port in operator.inputs), node.input, strict=True)),
            outputs=dict(zip((port.name for port in operator.outputs), node.output, strict=True)),
            attributes={attribute.name: attribute.i for attribute in node.attribute},
        )


def _view_roots(graph: GraphProto) -> dict[str, str]:
    """Every tensor's name -> the tensor that it is a view of, through any number of views; else itself."""
    roots = {value.name: value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        is_view = node.op_type in VIEWS and not node.domain
        for output in node.output:
            roots[output] = roots[node.input[0]] if is_view else output
    return roots


def _segment_model(whole: Extractor, step: EngineStep) -> ModelProto:
    """A model on its own of one step; its weights are the same references as the whole graph's."""
    model, segment = whole.model, whole.extract_model(list(step.inputs), list(step.outputs))
    segment.graph.name = step.engine
    segment.producer_name, segment.producer_version = model.producer_name, model.producer_version
    for opset in [opset for opset in segment.opset_import if opset.domain not in STANDARD_DOMAINS]:
        segment.opset_import.remove(opset)
    return segment


def _plan_tensor(value: ValueInfoProto, storage: str | None, written: int, last_read: int) -> PlanTensor:
    return PlanTensor(value.name, dtype_of(value), shape_of(value), storage, written, last_read)


def _bound(tensors: tuple[str, ...] | Mapping[str, str]) -> Iterable[str]:
    return tensors.values() if isinstance(tensors, Mapping) else tensors


def _is_custom(node: NodeProto) -> bool:
    return node.domain not in STANDARD_DOMAINS


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)

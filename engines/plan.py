"""What a lowered graph is: engines and kernels that run one after another, and the tensors between them.

Plain data that a manifest keeps, so that running a plan needs neither onnx nor the graph it was made of.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flashvsr_trt.config.signatures import DTYPE_BYTES
from flashvsr_trt.files.manifest_reader import BadManifestError

BEFORE = -1
"""The `written` of a tensor that is there before the first step: an input of the graph."""


@dataclass(frozen=True)
class PlanTensor:
    """A tensor that is bound to a step. Shapes are fixed.

    Attributes:
        dtype: a numpy name, as in `signatures.DTYPE_BYTES`, or "int32" and the like.
        storage: name of the tensor whose memory this one is, in another shape; None for one of its own.
        written: index of the step that writes it, or BEFORE.
        last_read: index of the last step that reads it; the number of steps for an output of the graph.
            For a tensor with views, of these as well.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage: str | None
    written: int
    last_read: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class EngineStep:
    """Run the engine of that name; its bindings are called as the tensors are."""

    engine: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class KernelStep:
    """Run the kernel of a custom node. `inputs` and `outputs` are its operator's ports -> tensors."""

    node: str
    operator: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    attributes: Mapping[str, int]


Step = EngineStep | KernelStep


@dataclass(frozen=True)
class SegmentPlan:
    """The steps of one graph, in the order they run, and every tensor that they bind, by name.

    A tensor's memory may be used again after its `last_read`, and holds nothing before it is `written`.
    """

    graph: str
    steps: tuple[Step, ...]
    tensors: Mapping[str, PlanTensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(step.engine for step in self.engine_steps)

    @property
    def engine_steps(self) -> tuple[EngineStep, ...]:
        return tuple(step for step in self.steps if isinstance(step, EngineStep))

    @property
    def kernels(self) -> tuple[KernelStep, ...]:
        return tuple(step for step in self.steps if isinstance(step, KernelStep))

    @property
    def carried(self) -> tuple[PlanTensor, ...]:
        """Tensors that live between steps only: what needs memory besides inputs and outputs."""
        edge = {*self.inputs, *self.outputs}
        return tuple(
            tensor for tensor in self.tensors.values() if tensor.storage is None and tensor.name not in edge
        )

    def bindings(self, names: Iterable[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of the tensors of these names."""
        return {name: (self.tensors[name].dtype, self.tensors[name].shape) for name in names}

    def memory_of(self, name: str) -> str:
        """The tensor whose memory holds a tensor: itself, unless it is a view."""
        return self.tensors[name].storage or name


ITEM_BYTES = DTYPE_BYTES | {"int32": 4, "int64": 8}
"""Of the dtypes that tensors between steps may have."""

LARGEST_TENSOR = 1 << 40
"""Bytes: more than any device has."""


def check_plan(plan: SegmentPlan, graph: str) -> None:
    """Raise BadManifestError unless a plan that was read is of that graph and can be run."""
    count = len(plan.steps)
    if plan.graph != graph:
        raise BadManifestError(f"the plan of {graph} is of {plan.graph!r:.40}")
    for name, tensor in plan.tensors.items():
        if tensor.name != name:
            raise BadManifestError(f"{graph} has {tensor.name!r:.60} under the name {name!r:.60}")
        lives = BEFORE <= tensor.written < count and tensor.written <= tensor.last_read <= count
        # The size only of shapes that are short and have no absurd side: a product of huge ints is one more.
        sane = len(tensor.shape) <= 16 and all(0 < side <= LARGEST_TENSOR for side in tensor.shape)
        if tensor.dtype not in ITEM_BYTES or not sane or tensor.size_bytes > LARGEST_TENSOR or not lives:
            raise BadManifestError(f"{graph} has a tensor that cannot be: {tensor}"[:300])
        if tensor.storage is not None and (
            tensor.storage not in plan.tensors
            or plan.tensors[tensor.storage].storage is not None
            or plan.tensors[tensor.storage].size_bytes != tensor.size_bytes
        ):
            raise BadManifestError(f"{tensor.name!r:.60} of {graph} has no memory of its size")
    for step in plan.steps:
        ports = (step.inputs, step.outputs)
        names = [name for port in ports for name in (port.values() if isinstance(port, Mapping) else port)]
        _check_known(plan, names)
    _check_known(plan, (*plan.inputs, *plan.outputs))


def _check_known(plan: SegmentPlan, names: Iterable[str]) -> None:
    for name in names:
        if name not in plan.tensors:
            raise BadManifestError(f"{plan.graph} binds {name!r:.60}, which it does not have")

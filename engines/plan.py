"""What a lowered graph is: engines and kernels that run one after another, and the tensors between them.

Plain data that a manifest keeps, so that running a plan needs neither onnx nor the graph it was made of.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashvsr_trt.signatures import DTYPE_BYTES

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
        """Bytes of its elements."""
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
        """The engines it runs, in order."""
        return tuple(step.engine for step in self.steps if isinstance(step, EngineStep))

    @property
    def kernels(self) -> tuple[KernelStep, ...]:
        """The kernels it runs, in order."""
        return tuple(step for step in self.steps if isinstance(step, KernelStep))

    @property
    def carried(self) -> tuple[PlanTensor, ...]:
        """Tensors that live between steps only: what needs memory besides inputs and outputs."""
        edge = {*self.inputs, *self.outputs}
        return tuple(
            tensor for tensor in self.tensors.values() if tensor.storage is None and tensor.name not in edge
        )

    def memory_of(self, name: str) -> str:
        """The tensor whose memory holds a tensor: itself, unless it is a view."""
        return self.tensors[name].storage or name

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"tensors": [asdict(tensor) for tensor in self.tensors.values()]}


ITEM_BYTES = DTYPE_BYTES | {"int32": 4, "int64": 8}
"""Of the dtypes that tensors between steps may have."""


def plan_from_dict(stored: Mapping[str, Any]) -> SegmentPlan:
    """The inverse of `SegmentPlan.as_dict`. Raises KeyError or TypeError on anything else."""
    tensors = [PlanTensor(**tensor | {"shape": tuple(tensor["shape"])}) for tensor in stored["tensors"]]
    return SegmentPlan(
        graph=stored["graph"],
        steps=tuple(_step_from_dict(step) for step in stored["steps"]),
        tensors={tensor.name: tensor for tensor in tensors},
        inputs=tuple(stored["inputs"]),
        outputs=tuple(stored["outputs"]),
    )


def _step_from_dict(stored: Mapping[str, Any]) -> Step:
    if "engine" in stored:
        return EngineStep(stored["engine"], tuple(stored["inputs"]), tuple(stored["outputs"]))
    return KernelStep(**stored)

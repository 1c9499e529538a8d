"""What the executor asks of engines and kernels: the seam between it and TensorRT or ONNX Runtime.

`engine.py` here and in `runtime/onnxruntime`, and `aot_kernels.py`, stand behind it on a GPU, doubles in
tests.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from flashvsr_trt.engines.manifest import BUILD_AGAIN
from flashvsr_trt.engines.plan import KernelStep, SegmentPlan
from flashvsr_trt.errors import EngineError

ReportLayer = Callable[[str, str, float], None]
"""Gets the engine, one of its layers, and the seconds that the layer took."""


def check_bound(engine: str, wanted: set[str], addresses: Mapping[str, int]) -> None:
    """Raise EngineError unless addresses are those of an engine's inputs and outputs."""
    if wanted != set(addresses):
        differ = ", ".join(sorted(wanted ^ set(addresses)))
        raise EngineError(f"{engine} binds {differ} otherwise than its plan; {BUILD_AGAIN}")


class EngineContext(Protocol):
    """One engine with addresses for its inputs and outputs. What was enqueued keeps those it had."""

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Set the address of every input and output.

        Raises:
            EngineError: there are others, or an address is refused.
        """

    def enqueue(self, stream: int) -> None:
        """Put one run on a stream. Raises EngineError with the engine's own message."""

    def can_capture(self, stream: int) -> bool:
        """Whether a run can be recorded into a CUDA graph."""
        ...


class Engine(Protocol):
    """A loaded engine. Its weights are on the device."""

    memory_bytes: int
    """Scratch memory of a context; contexts that never run at once can share it."""

    def new_context(self, memory: int, report: ReportLayer | None) -> EngineContext:
        """A context whose scratch memory is at that address; `report` gets layer times of every run."""
        ...

    def close(self) -> None:
        """Give back what it has on the device; none of its contexts may be running or be used again."""


class EngineRunner(Protocol):
    """Loads and runs what a plan is made of."""

    keeps_host_memory: bool
    """Whether host memory that a run copies from stays as it is, so that a CUDA graph may hold the copy."""

    def load(self, engine: str, stream: int) -> Engine:
        """Load an engine by its name, to be run on that stream.

        Raises:
            EngineError: it is damaged or made for something else.
        """
        ...

    def keep_compiled(self) -> None:
        """Keep what was compiled while contexts were made and run, for the next start."""

    def scratch_bytes(self, plan: SegmentPlan, step: KernelStep) -> int:
        """Scratch memory of a kernel."""
        ...

    def launch(
        self,
        plan: SegmentPlan,
        step: KernelStep,
        addresses: Mapping[str, int],
        scratch: int,
        stream: int,
    ) -> None:
        """Put a kernel on a stream. `addresses` are by its operator's ports."""

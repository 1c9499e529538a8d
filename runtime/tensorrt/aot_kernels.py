"""The compiled kernels of the custom nodes, launched between engines. No torch, no Triton."""

from collections.abc import Mapping

from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.engines.plan import KernelStep, SegmentPlan
from flashvsr_trt.kernels.launch import (
    LoadedKernel,
    PreparedLaunch,
    launch_prepared,
    load_kernel,
    prepare_launch,
    scratch_bytes,
)
from flashvsr_trt.plugins.op_kernels import OperatorKernels


class AotKernels:
    """The kernels of a folder of engines, loaded into the current CUDA context.

    Raises:
        EngineError, UsageError: the folder has not the kernels that its plans launch.
        DeviceError: CUDA cannot load one.
    """

    def __init__(self, engines: EngineSet) -> None:
        manifest = engines.manifest
        self.loaded: dict[str, LoadedKernel] = {}
        self._prepared: dict[tuple[str, ...], PreparedLaunch] = {}
        if not any(plan.kernels for plan in manifest.plans.values()):
            return
        folder = engines.kernels_folder
        found = OperatorKernels.of(engines.bundle, manifest.key.architecture).read(folder)
        self.loaded = {name: load_kernel(fastest, folder) for name, (fastest, *_) in found.items()}

    def scratch_bytes(self, plan: SegmentPlan, step: KernelStep) -> int:
        return scratch_bytes(self.loaded[step.operator].artifact, _shapes(plan, step), dict(step.attributes))

    def launch(
        self, plan: SegmentPlan, step: KernelStep, addresses: Mapping[str, int], scratch: int, stream: int
    ) -> None:
        # Shapes are the plan's, so grid and integers are worked out at a step's first launch only.
        name = plan.graph, *step.outputs.values()
        if name not in self._prepared:
            kernel = self.loaded[step.operator]
            self._prepared[name] = prepare_launch(kernel, _shapes(plan, step), dict(step.attributes))
        launch_prepared(self._prepared[name], stream, {**addresses, "scratch": scratch})


def _shapes(plan: SegmentPlan, step: KernelStep) -> dict[str, tuple[int, ...]]:
    return {port: plan.tensors[name].shape for port, name in step.inputs.items()}

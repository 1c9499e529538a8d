"""The compiled kernels of the custom nodes, launched between engines. No torch, no Triton."""

from collections.abc import Mapping

from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.engines.plan import KernelStep, SegmentPlan
from flashvsr_trt.kernels.launch import LoadedKernel, launch_kernel, load_kernel, output_shape
from flashvsr_trt.plugins.op_kernels import read_operator_kernels


class AotKernels:
    """The kernels of a folder of engines, loaded into the current CUDA context.

    Raises:
        EngineError, UsageError: the folder has not the kernels that its plans launch.
        DeviceError: CUDA cannot load one.
    """

    def __init__(self, engines: EngineSet) -> None:
        manifest = engines.manifest
        self.loaded: dict[str, LoadedKernel] = {}
        if not any(plan.kernels for plan in manifest.plans.values()):
            return
        architecture = "sm_" + manifest.capability.replace(".", "")
        head_dim = engines.bundle.stream.preset.network.dit.head_dim
        folder = engines.kernels_folder
        artifacts = read_operator_kernels(architecture, manifest.precision, head_dim, folder)
        self.loaded = {name: load_kernel(artifact, folder) for name, artifact in artifacts.items()}

    def scratch_bytes(self, plan: SegmentPlan, step: KernelStep) -> int:
        """See `EngineRunner.scratch_bytes`."""
        artifact = self.loaded[step.operator].artifact
        if not any(argument.role == "scratch" for argument in artifact.arguments):
            return 0
        (size,) = output_shape(artifact, "scratch", _shapes(plan, step), dict(step.attributes))
        return size

    def launch(
        self, plan: SegmentPlan, step: KernelStep, addresses: Mapping[str, int], scratch: int, stream: int
    ) -> None:
        """See `EngineRunner.launch`."""
        pointers = dict(addresses) | {"scratch": scratch}
        launch_kernel(
            self.loaded[step.operator], stream, pointers, _shapes(plan, step), dict(step.attributes)
        )


def _shapes(plan: SegmentPlan, step: KernelStep) -> dict[str, tuple[int, ...]]:
    return {port: plan.tensors[name].shape for port, name in step.inputs.items()}

"""What `flashvsr-trt parity` does: a bundle against the torch stages, with the weights it was made of."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.errors import ParityError
from flashvsr_trt.export.export_bundle import compute_dtype
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.parity.bisect import Divergence, find_divergence
from flashvsr_trt.parity.compare import (
    END_TO_END,
    ParityReport,
    compare_graphs,
    run_clip,
    synthetic_frames,
)
from flashvsr_trt.parity.engine_stages import EngineStages
from flashvsr_trt.parity.onnxruntime_stages import OnnxRuntimeStages
from flashvsr_trt.parity.stage_runner import Arrays, StageExecutor, StageRunner
from flashvsr_trt.parity.tensor_error import TensorError, thresholds_for
from flashvsr_trt.parity.torch_stages import TorchStages
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from flashvsr_trt.runtime.torch.executor import TorchExecutor


@dataclass(frozen=True)
class ParityResult:
    """The report, and where the first diverging graph parts from the reference if that was looked for."""

    report: ParityReport
    divergence: Divergence | None = None


def bundle_network(bundle: Bundle, weights: str | None = None, device: str = "cpu") -> Network:
    """The torch network that a bundle was exported from, in the bundle's dtype.

    Args:
        weights: where they are now; None is what the bundle was exported with.
        device: of torch, that it is to run on.

    Raises:
        WeightsError: they cannot be found.
        ParityError: they are other weights than the bundle's.
    """
    spec = weights or bundle.weights.spec
    config = bundle.stream.preset.network
    dtype = compute_dtype(bundle.precision)
    loaded = load_weights(resolve_weights(spec, config), config, dtype)
    if loaded.fingerprint != bundle.weights.fingerprint:
        raise ParityError(
            f"{bundle.folder} was exported from {bundle.weights.source}, and {loaded.source} are other "
            "weights; name the right ones with --weights"
        )
    return build_network(config, loaded, torch.device(device), dtype)


def check_parity(bundle: Bundle, network: Network, frame_count: int, bisect: bool = False) -> ParityResult:
    """Compare ONNX Runtime with torch by graph and end to end; with `bisect`, inside the first bad graph.

    A bfloat16 bundle is compared in float32, of weights that were rounded to bfloat16; see `widen`. Its
    network's modules are changed.
    """
    if bundle.precision == "bf16":
        wide = Network(network.projector.float(), network.dit.float(), network.decoder.float())
        return check_parity(replace(bundle, precision="fp32"), wide, frame_count, bisect)
    frames = synthetic_frames(bundle, frame_count)
    stages = TorchStages(network, bundle.stream)
    candidate = OnnxRuntimeStages(bundle)
    executor = StageExecutor(candidate, bundle)
    report = compare_with_torch(bundle, network, stages, candidate, executor, frames)
    graph = report.first_diverging
    if not bisect or graph in (None, END_TO_END):
        return ParityResult(report)
    inputs = InputsOf(graph, stages)
    run_clip(StageExecutor(inputs, bundle), frames)
    divergences = (find_divergence(bundle, network, graph, call, report.thresholds) for call in inputs.calls)
    return ParityResult(report, next((found for found in divergences if found), None))


def check_engines(executor: TensorRTExecutor, network: Network, frame_count: int) -> ParityResult:
    """Compare engines with torch in the engines' own dtype, by graph and end to end.

    Args:
        executor: on the engines; it runs no clip yet.
        network: of `bundle_network`, on any device.
    """
    bundle = executor.bundle
    frames = synthetic_frames(bundle, frame_count)
    with closing(EngineStages(executor)) as candidate:
        stages = TorchStages(network, bundle.stream)
        return ParityResult(compare_with_torch(bundle, network, stages, candidate, executor, frames))


def compare_with_torch(
    bundle: Bundle,
    network: Network,
    reference_stages: StageRunner,
    candidate_stages: StageRunner,
    candidate: Executor,
    frames: np.ndarray,
) -> ParityReport:
    """Every graph on the inputs of the reference, then the whole clip by each on its own."""
    reference = TorchExecutor(network, bundle.stream)
    tensors = compare_graphs(bundle, reference_stages, candidate_stages, frames)
    clips = TensorError(END_TO_END, "frames")
    clips.add(run_clip(reference, frames), run_clip(candidate, frames))
    return ParityReport(
        precision=bundle.precision,
        thresholds=thresholds_for(bundle.precision),
        reference=reference.describe(),
        candidate=candidate.describe(),
        tensors=[*tensors, clips],
    )


class InputsOf:
    """A stage runner that keeps the inputs of one graph's first and last call."""

    def __init__(self, graph: str, runner: TorchStages) -> None:
        self.graph, self.runner = graph, runner
        self.calls: list[Arrays] = []

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        if graph == self.graph:
            self.calls[1:] = [{name: np.array(tensor) for name, tensor in inputs.items()}]
        return self.runner.run(graph, inputs)

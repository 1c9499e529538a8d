"""What `flashvsr-trt parity` does: a bundle against the torch stages, with the weights it was made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.errors import ParityError, UsageError
from flashvsr_trt.export.export_bundle import compute_dtype
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.parity.bisect import Divergence, find_divergence
from flashvsr_trt.parity.compare import (
    END_TO_END,
    ParityReport,
    compare_clips,
    compare_graphs,
    run_clip,
    synthetic_frames,
)
from flashvsr_trt.parity.onnxruntime_stages import OnnxRuntimeStages
from flashvsr_trt.parity.stage_runner import Arrays, StageExecutor
from flashvsr_trt.parity.tensor_error import thresholds_for
from flashvsr_trt.parity.torch_stages import TorchStages
from flashvsr_trt.parity.widened import NARROW, widened_bundle, widened_network
from flashvsr_trt.runtime.torch.executor import TorchExecutor


@dataclass(frozen=True)
class ParityResult:
    """The report, and where the first diverging graph parts from the reference if that was looked for."""

    report: ParityReport
    divergence: Divergence | None = None


def bundle_network(bundle: Bundle, weights: str | None = None) -> Network:
    """The torch network that a bundle was exported from.

    Args:
        weights: where they are now; None is what the bundle was exported with.

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
    return build_network(config, loaded, torch.device("cpu"), dtype)


def check_parity(bundle: Bundle, network: Network, frame_count: int, bisect: bool = False) -> ParityResult:
    """Compare ONNX Runtime with torch by graph and end to end; with `bisect`, inside the first bad graph.

    A bfloat16 bundle is compared in float32; see `widened`.
    """
    if bundle.precision == NARROW:
        return check_parity(widened_bundle(bundle), widened_network(network), frame_count, bisect)
    frames = synthetic_frames(bundle, frame_count)
    if not len(frames):
        raise UsageError(f"--frames {frame_count} compares nothing; give at least 1")
    reference, candidate = (
        TorchExecutor(network, bundle.stream),
        StageExecutor(OnnxRuntimeStages(bundle), bundle),
    )
    stages = TorchStages(network, bundle.stream)
    report = ParityReport(
        precision=bundle.precision,
        thresholds=thresholds_for(bundle.precision),
        reference=reference.describe(),
        candidate=candidate.describe(),
        tensors=compare_graphs(bundle, stages, OnnxRuntimeStages(bundle), frames),
    )
    report.tensors.append(compare_clips(reference, candidate, frames))
    graph = report.first_diverging
    if not bisect or graph in (None, END_TO_END):
        return ParityResult(report)
    inputs = InputsOf(graph, stages)
    run_clip(StageExecutor(inputs, bundle), frames)
    divergences = (find_divergence(bundle, network, graph, call, report.thresholds) for call in inputs.calls)
    return ParityResult(report, next((found for found in divergences if found), None))


class InputsOf:
    """A stage runner that keeps the inputs of one graph's first and last call."""

    def __init__(self, graph: str, runner: TorchStages) -> None:
        self.graph, self.runner = graph, runner
        self.calls: list[Arrays] = []

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """See `StageRunner.run`."""
        if graph == self.graph:
            self.calls[1:] = [{name: np.array(tensor) for name, tensor in inputs.items()}]
        return self.runner.run(graph, inputs)

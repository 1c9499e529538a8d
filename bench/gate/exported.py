"""The exported graphs: one small bundle of the golden network, its frames, its nodes and its engines."""

import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

from bench.gate.measure import Metrics, Sample
from bench.gate.parity import frames_against, golden_frames
from flashvsr_trt import imported_sources
from flashvsr_trt.bundle import Bundle
from flashvsr_trt.engines.cache import engine_key, find_engines
from flashvsr_trt.engines.flavours import RTX, Target
from flashvsr_trt.engines.lowering import lower_graph
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.export.inspect_graph import inspect_bundle
from tests.exported import export_golden
from tests.golden import load_case


@cache
def _folder() -> tempfile.TemporaryDirectory:
    """Of this process, and gone with it."""
    return tempfile.TemporaryDirectory(prefix="flashvsr-gate-")


@cache
def golden_bundle() -> Bundle:
    """The streaming case's network in float32, exported once a process."""
    return export_golden(Path(_folder().name), "e2e_streaming", "low-latency", "torch")


def parity(preset: str) -> Sample:
    """The graphs in ONNX Runtime against the official frames."""
    from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor

    bundle, case = golden_bundle(), load_case("e2e_streaming")

    def sample() -> Metrics:
        made = golden_frames(OnnxRuntimeExecutor(bundle), case, "low-latency")
        return {"frames": len(made)} | frames_against(case["frames_u8"].numpy(), made)

    return sample


def graph_nodes(preset: str) -> Sample:
    """Nodes by graph and kind, `dit.MatMul`."""

    def sample() -> Metrics:
        reports = inspect_bundle(golden_bundle())
        return {f"{r.name}.{kind}": count for r in reports for kind, count in r.node_counts.items()}

    return sample


def engine_counts(preset: str) -> Sample:
    """Engines that each graph is cut into, and kernels between them: what a manifest's plans list."""

    def sample() -> Metrics:
        bundle = golden_bundle()
        plans = {name: lower_graph(bundle.graph_path(name)).plan for name in bundle.graphs}
        counted = {f"{name}.engines": len(plan.engines) for name, plan in plans.items()}
        return counted | {f"{name}.kernels": len(plan.kernels) for name, plan in plans.items()}

    return sample


def engine_lookup(preset: str) -> Sample:
    """Processor seconds until a new process knows that there are no engines, the least of three."""
    # Kernels are made for 16 bits; the name of another precision makes another key, of the same files.
    bundle, root = replace(golden_bundle(), precision="fp16"), Path(_folder().name) / "engines"
    target = Target(RTX, "1.7.0", "8.9")

    def lookup() -> float:
        for cached in (imported_sources.sources_of, imported_sources.sources_digest, imported_sources._spec):
            cached.cache_clear()
        started = time.process_time()
        found = find_engines(root, bundle, engine_key(bundle, target, BuildOptions()))
        if found:
            raise RuntimeError(f"engines were found in {root}, where there are none")
        return time.process_time() - started

    return lambda: {"lookup": min(lookup() for _ in range(3))}

"""Checking a folder of engines: as far as this machine can, and saying how far that is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from flashvsr_trt.bundle import read_bundle
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import FLAVOURS, ONNXRUNTIME
from flashvsr_trt.engines.manifest import BUILD_AGAIN, MANIFEST, EngineSet
from flashvsr_trt.engines.plan import EngineStep
from flashvsr_trt.engines.stale import why_stale
from flashvsr_trt.engines.tensorrt_api import (
    check_bindings,
    engine_bindings,
    load_engine,
    load_module,
    logger_of,
)
from flashvsr_trt.errors import EngineError, FlashVSRError
from flashvsr_trt.plugins.op_kernels import read_operator_kernels


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `passed` is None where this machine cannot tell."""

    name: str
    passed: bool | None
    detail: str


def verify_engines(engines: EngineSet, device: Device | None) -> Iterator[Check]:
    """Every check, in order: files, bundle, bindings, kernels, freshness, and deserialising on a GPU."""
    yield _check("files", lambda: _files(engines))
    yield _check("bundle", lambda: _bundle(engines))
    yield _check("bindings", lambda: _bindings(engines))
    if engines.manifest.key.kernels:
        yield _check("kernels", lambda: _kernels(engines))
    stale = why_stale(engines)
    yield Check("fresh", stale is None, stale or "this release would build the same")
    if device is None:
        yield Check("deserialise", None, "no GPU here: engines are loaded, and compared, only on one")
    elif engines.manifest.key.capability != device.capability:
        detail = f"built for compute capability {engines.manifest.key.capability}; {device.name} has "
        yield Check("deserialise", None, detail + device.capability)
    else:
        yield _check("deserialise", lambda: _deserialise(engines))


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except FlashVSRError as error:
        return Check(name, False, str(error))


def _files(engines: EngineSet) -> str:
    for name in engines.manifest.engines:
        engines.read_engine(name)
        engines.check_segment(name)
    engines.check_layers()
    return f"{len(engines.manifest.engines)} engines, their models and layers, every sha256 matches"


def _bundle(engines: EngineSet) -> str:
    bundle = read_bundle(engines.folder, verify=True, beside=(MANIFEST,))
    key = engines.manifest.key
    if {name: file.sha256 for name, file in bundle.graphs.items()} != key.graphs:
        raise EngineError(f"{engines.folder} was built from other graphs than lie in it; {BUILD_AGAIN}")
    if bundle.weights.file.sha256 != key.weights:
        raise EngineError(f"{engines.folder} was built from other weights than lie in it; {BUILD_AGAIN}")
    return "the graphs and weights that the engines were built from, every sha256 matches"


def _bindings(engines: EngineSet) -> str:
    """The plans against the bundle's signatures, and each engine's model against its plan."""
    for graph, plan in engines.manifest.plans.items():
        if plan.bindings((*plan.inputs, *plan.outputs)) != engines.signature_bindings(graph):
            raise EngineError(f"the plan of {graph} binds other tensors than its signature; {BUILD_AGAIN}")
        for step in plan.engine_steps:
            _check_model(engines, step)
    return f"{len(engines.manifest.plans)} graphs have the bundle's inputs and outputs"


def _check_model(engines: EngineSet, step: EngineStep) -> None:
    path = engines.model_path(step.engine)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}); {BUILD_AGAIN}") from error
    if [v.name for v in model.graph.input] != list(step.inputs) or [
        v.name for v in model.graph.output
    ] != list(step.outputs):
        raise EngineError(f"{path} has other inputs or outputs than the plan binds; {BUILD_AGAIN}")


def _kernels(engines: EngineSet) -> str:
    manifest, network = engines.manifest, engines.bundle.stream.preset.network
    engines.check_kernels()
    architecture = manifest.key.architecture
    found = read_operator_kernels(
        architecture, manifest.key.precision, network.dit.head_dim, engines.kernels_folder
    )
    return f"{', '.join(artifact.name for artifact in found.values())} for {architecture}"


def _deserialise(engines: EngineSet) -> str:
    """Load each engine and compare its bindings with the plan's."""
    manifest = engines.manifest
    flavour = FLAVOURS[manifest.key.flavour]
    if flavour is ONNXRUNTIME:
        return _open_sessions(engines)
    trt = load_module(flavour)
    runtime = trt.Runtime(logger_of(trt))
    for plan in manifest.plans.values():
        for step in plan.engine_steps:
            loaded = load_engine(trt, runtime, engines, step.engine)
            planned = plan.bindings((*step.inputs, *step.outputs))
            check_bindings(engine_bindings(trt, loaded), planned, step.engine, BUILD_AGAIN)
    return f"{flavour.title} loads every engine, with the plan's bindings"


def _open_sessions(engines: EngineSet) -> str:
    """Open and run each session on zeros: one of other bindings, or with nodes on the host, is refused."""
    from flashvsr_trt.runtime.onnxruntime.engine import OnnxRuntimeSessions
    from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

    device = CudaDevice()
    stream = device.new_stream()
    sessions = OnnxRuntimeSessions(engines, device)
    for name in engines.manifest.engines:
        sessions.load(name, stream).close()
    device.destroy_stream(stream)
    return f"{ONNXRUNTIME.title} opens and runs every session, with all nodes on the GPU"

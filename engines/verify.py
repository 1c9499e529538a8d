"""Checking a folder of engines: as far as this machine can, and saying how far that is."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from flashvsr_trt.bundle import read_bundle
from flashvsr_trt.engines.cache import why_stale
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import FLAVOURS, ONNXRUNTIME
from flashvsr_trt.engines.lowering import custom_nodes
from flashvsr_trt.engines.manifest import BUILD_AGAIN, MANIFEST, WEIGHTS_KEY, EngineSet
from flashvsr_trt.engines.plan import EngineStep, SegmentPlan
from flashvsr_trt.engines.tensorrt_api import (
    check_bindings,
    engine_bindings,
    load_engine,
    load_module,
    logger_of,
    one_line,
)
from flashvsr_trt.errors import EngineError, FlashVSRError
from flashvsr_trt.extras import is_installed
from flashvsr_trt.plugins.onnx_values import dtype_of, shape_of
from flashvsr_trt.plugins.op_kernels import OperatorKernels

SESSION_TYPES = {
    f"tensor({name})": {"float": "float32", "double": "float64"}.get(name, name)
    for name in ("bool", "uint8", "int32", "int64", "float16", "float", "double")
}
"""How a session calls a tensor's type -> how a plan does."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `passed` is None where this machine cannot tell."""

    name: str
    passed: bool | None
    detail: str


def verify_engines(engines: EngineSet, device: Device | None) -> Iterator[Check]:
    """Every check: files, bundle, bindings, sessions, kernels, freshness, and deserialising on a GPU."""
    yield _check("files", lambda: _files(engines))
    yield _check("bundle", lambda: _bundle(engines))
    yield _check("bindings", lambda: _bindings(engines))
    reason = why_no_sessions(engines)
    yield Check("sessions", None, reason) if reason else _check("sessions", lambda: _sessions(engines))
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
    engines.check_files(engines.manifest.layers)
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
            _check_model(engines, plan, step)
    return f"{len(engines.manifest.plans)} graphs have the bundle's inputs and outputs"


def _check_model(engines: EngineSet, plan: SegmentPlan, step: EngineStep) -> None:
    """An engine's graph against the plan: names, dtypes, shapes, and that these shapes come out of it."""
    path = engines.model_path(step.engine)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}); {BUILD_AGAIN}") from error
    for values, names in ((model.graph.input, step.inputs), (model.graph.output, step.outputs)):
        found = {value.name: (dtype_of(value), shape_of(value)) for value in values}
        if list(found) != list(names) or found != plan.bindings(names):
            raise EngineError(f"{path} has other inputs or outputs than the plan binds; {BUILD_AGAIN}")
    if not custom_nodes(model):
        try:
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        except onnx.shape_inference.InferenceError as error:
            reason = one_line([str(error)])
            raise EngineError(
                f"{path} does not compute the shapes that it says ({reason}); {BUILD_AGAIN}"
            ) from error


def why_no_sessions(engines: EngineSet) -> str | None:
    """Why ONNX Runtime cannot open what the engines are made of on this CPU; None where it can."""
    manifest = engines.manifest
    if not is_installed("onnxruntime"):
        return "no onnxruntime here: engines' graphs are opened on the CPU only with it"
    if manifest.key.precision == "bf16":
        return "ONNX Runtime's CPU provider has no bfloat16: graphs are opened only in fp16 and fp32"
    if manifest.key.kernels and not any(plan.kernels for plan in manifest.plans.values()):
        return "plugins are inside the engines: only TensorRT opens their graphs"
    return None


def _sessions(engines: EngineSet) -> str:
    """Open every engine's graph on the CPU, and compare what the session takes and gives with the plan."""
    from flashvsr_trt.runtime.onnxruntime.session import open_session, session_options

    own = engines.manifest.key.flavour == ONNXRUNTIME.name
    for plan in engines.manifest.plans.values():
        for step in plan.engine_steps:
            path = engines.engine_path(step.engine) if own else engines.model_path(step.engine)
            session = open_session(path, str(path), session_options())
            matrices = json.loads(session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY, "{}"))
            found = {
                str(value.name): (SESSION_TYPES.get(value.type or "", str(value.type)), tuple(value.shape))
                for value in (*session.get_inputs(), *session.get_outputs())
                if value.name not in matrices
            }
            check_bindings(found, plan.bindings((*step.inputs, *step.outputs)), step.engine, BUILD_AGAIN)
    return "ONNX Runtime opens every engine's graph on the CPU, with the plan's bindings; none was run"


def _kernels(engines: EngineSet) -> str:
    engines.check_kernels()
    architecture = engines.manifest.key.architecture
    found = OperatorKernels.of(engines.bundle, architecture).read(engines.kernels_folder)
    return f"{', '.join(fastest.name for fastest, *_ in found.values())} for {architecture}"


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
    from flashvsr_trt.runtime.onnxruntime.engine import OnnxRuntimeRunner
    from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

    device = CudaDevice()
    stream = device.new_stream()
    sessions = OnnxRuntimeRunner(engines, device)
    for name in engines.manifest.engines:
        sessions.load(name, stream).close()
    device.destroy_stream(stream)
    return f"{ONNXRUNTIME.title} opens and runs every session, with all nodes on the GPU"

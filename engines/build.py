"""A bundle to engines: lower every graph, build piece by piece, compile the kernels, write the manifest."""

import os
import shutil
import time
from collections.abc import Mapping, Sized
from functools import partial
from pathlib import Path

import onnx

from flashvsr_trt.bundle import MANIFEST as BUNDLE_MANIFEST
from flashvsr_trt.bundle import Bundle, read_bundle
from flashvsr_trt.cache.entries import find_or_make, making
from flashvsr_trt.engines.cache import (
    engine_folder,
    engine_key,
    find_engines,
    needed_kernels,
)
from flashvsr_trt.engines.device import current_device
from flashvsr_trt.engines.engine_file import BuildSetting, build_engine_file
from flashvsr_trt.engines.flavours import ONNXRUNTIME, Target
from flashvsr_trt.engines.layers import layers_name
from flashvsr_trt.engines.lowering import LoweredGraph, keep_custom_nodes, lower_graph
from flashvsr_trt.engines.manifest import (
    KERNELS,
    EngineFile,
    EngineManifest,
    EngineSet,
    model_name,
    open_engines,
)
from flashvsr_trt.engines.manifest import write_manifest as write_engine_manifest
from flashvsr_trt.engines.onnxruntime_graph import check_onnxruntime_build, write_session_file
from flashvsr_trt.engines.options import DEFAULT_OPTIONS, BuildOptions
from flashvsr_trt.engines.progress_monitor import Cancellation, ReportPhase, cancel_on_interrupt
from flashvsr_trt.engines.tensorrt_api import channels_last
from flashvsr_trt.engines.timing_cache import timing_cache_path
from flashvsr_trt.errors import DeviceError, EngineError, UsageError
from flashvsr_trt.files.folder import describe_file
from flashvsr_trt.files.new import whole_folder
from flashvsr_trt.kernels.manifest import MANIFEST as KERNEL_MANIFEST
from flashvsr_trt.kernels.tuning import PLAIN_SHARED_LIMIT, SHARED_LIMIT
from flashvsr_trt.notices import Notify, Report, phase
from flashvsr_trt.plugins.op_kernels import OperatorKernels
from flashvsr_trt.plugins.sparse_attention import OPERATORS
from flashvsr_trt.plugins.tensorrt_plugin import plugin_id, register_plugins
from flashvsr_trt.process_memory import peak_process_bytes

PLUGINS = tuple(plugin_id(operator) for operator in OPERATORS)


def find_or_build_engines(
    root: Path,
    bundle: Bundle,
    target: Target,
    options: BuildOptions = DEFAULT_OPTIONS,
    notify: Notify = print,
    debug_folder: Path | None = None,
) -> EngineSet:
    """The engines under `root` that match, or new ones. Damaged ones are set aside, and that is said.

    Of several processes that want one set, one builds it and the others wait.

    Raises:
        CacheError: they must be built, and the folder cannot be written.
        EngineError, DeviceError, MissingDependencyError: as `build_engines`.
    """
    key = engine_key(bundle, target, options)

    def read() -> EngineSet | None:
        found = find_engines(root, bundle, key)
        if found is not None:
            found.check_contents()
            found.check_files(found.manifest.engines)
        return found

    make = partial(build_engines, root, bundle, target, options, notify, debug_folder)
    return find_or_make(engine_folder(root, bundle, key), read, make, notify)


def build_engines(
    root: Path,
    bundle: Bundle,
    target: Target,
    options: BuildOptions = DEFAULT_OPTIONS,
    notify: Notify = print,
    debug_folder: Path | None = None,
) -> EngineSet:
    """Build every engine of a bundle, one at a time, each freed before the next.

    Args:
        root: the folder of engines is made in it, under a name that its key decides.
        debug_folder: where a graph that could not be built is kept.

    Raises:
        BundleError: a file of the bundle was changed.
        EngineError: a graph cannot be lowered or built, or the folder not written.
        DeviceError: the options need a GPU to build with.
        UsageError: an option that these engines cannot have.
        MissingDependencyError: the flavour, or Triton for a sparse preset, is not installed.
        KeyboardInterrupt: Ctrl-C; nothing is left.
    """
    if target.flavour is ONNXRUNTIME:
        check_onnxruntime_build(bundle, options)
    if options.large_shared_memory and cuts(target, options):
        raise UsageError(
            "--large-shared-memory is for kernels inside engines, and these are launched between them, where "
            "they take what they need: leave it out"
        )
    if options.strip_weights and current_device() is None:
        raise DeviceError(
            f"{target.flavour.title} strips weights only on a machine with a GPU; leave out --strip-weights"
        )
    started = time.perf_counter()
    bundle = read_bundle(bundle.folder, verify=True)
    key = engine_key(bundle, target, options)
    folder = engine_folder(root, bundle, key)
    with cancel_on_interrupt() as cancellation, whole_folder(folder, EngineError) as part:
        link_bundle(bundle, part, notify)
        if key.kernels:
            notify(f"compiling kernels for {target.architecture}")
            _add_kernels(root, bundle, target, part, notify)
            cancellation.check()
        plugins = _registered_plugins(bundle, target, options, part, notify)
        lower = lower_graph if plugins is None else keep_custom_nodes
        lowered = {name: lower(bundle.graph_path(name)) for name in bundle.graphs}
        setting = BuildSetting(target, options, plugins or (), timing_cache_path(root, target))
        formats = {name: channels_last(bundle, name) for name in lowered}
        files = _build_all(lowered, formats, part, setting, cancellation, debug_folder)
        manifest = EngineManifest(
            key=key,
            device=target.device,
            driver=target.driver,
            plans={name: graph.plan for name, graph in lowered.items()},
            engines=files,
            segments={name: describe_file(part / model_name(name)) for name in files},
            layers={name: describe_file(part / layers_name(name)) for name in files},
            kernel_manifest=describe_file(part / KERNELS / KERNEL_MANIFEST) if key.kernels else None,
            build_seconds=round(time.perf_counter() - started, 1),
            peak_bytes=peak_process_bytes(notify),
        )
        write_engine_manifest(part, manifest)
    return open_engines(folder)


def link_bundle(bundle: Bundle, folder: Path, notify: Notify) -> None:
    """Put a bundle's files into a folder by hard links, which take no room; by a copy on another disk."""
    for name in (BUNDLE_MANIFEST, *(file.name for file in bundle.files)):
        try:
            os.link(bundle.folder / name, folder / name)
        except OSError:
            size = (bundle.folder / name).stat().st_size
            notify(
                f"copying {name} ({size / 1e9:.1f} GB): {folder.parent} is on another disk than the bundle"
            )
            shutil.copyfile(bundle.folder / name, folder / name)


def cuts(target: Target, options: BuildOptions) -> bool:
    """Whether graphs are cut at their custom nodes; else plugins compute these inside the engines."""
    return options.cut or not target.flavour.takes_plugins


def _build_all(
    lowered: dict[str, LoweredGraph],
    formats: dict[str, frozenset[str]],
    folder: Path,
    setting: BuildSetting,
    cancellation: Cancellation,
    debug_folder: Path | None,
) -> dict[str, EngineFile]:
    segments = {name: model for graph in lowered.values() for name, model in graph.segments.items()}
    nodes = {name: len(model.graph.node) for name, model in segments.items()}
    files: dict[str, EngineFile] = {}
    with phase("building engines", "nodes") as report:
        for graph_name, graph in lowered.items():
            for step in graph.plan.engine_steps:
                cancellation.check()
                name = step.engine
                tell = _tell_of(report, files, nodes, name)
                tell("", 0, 0)
                model_path = folder / model_name(name)
                onnx.save(graph.segments[name], model_path)
                bindings = graph.plan.bindings((*step.inputs, *step.outputs))
                path = folder / f"{name}.engine"
                try:
                    if setting.target.flavour is ONNXRUNTIME:
                        file = write_session_file(graph.segments[name], path)
                    else:
                        file = build_engine_file(
                            model_path, path, bindings, formats[graph_name], setting, cancellation, tell
                        )
                except EngineError as error:
                    raise EngineError(f"{error}{_keep(model_path, debug_folder)}") from error
                files[name] = file
        report(sum(nodes.values()), sum(nodes.values()))
    return files


def _tell_of(report: Report, built: Sized, nodes: Mapping[str, int], engine: str) -> ReportPhase:
    """Tells of the engine that is being built, after those of `built`, and of the builder's own phase."""
    done = sum(list(nodes.values())[: len(built)])
    which = f"{engine}, {len(built) + 1} of {len(nodes)}"

    def tell(phase: str, step: int, steps: int) -> None:
        report(done, sum(nodes.values()), f"{which}: {phase} {step}/{steps}" if phase else which)

    return tell


def _keep(model_path: Path, debug_folder: Path | None) -> str:
    """Keep a graph that failed, with a note of where its weights are, if that was asked for."""
    if debug_folder is None:
        return "; --debug keeps the graph"
    debug_folder.mkdir(parents=True, exist_ok=True)
    kept = debug_folder / model_path.name
    shutil.copyfile(model_path, kept)
    return f"; the graph is kept as {kept}"


def _registered_plugins(
    bundle: Bundle, target: Target, options: BuildOptions, folder: Path, notify: Notify
) -> tuple[str, ...] | None:
    """Make the kernels known to the builder, which puts them into the engine; None where graphs are cut.

    TensorRT is not known to raise a kernel's limit of shared memory, and a launch above it fails. What its
    timing makes of a tactic that fails is not known either, so by default it is offered none that may.
    """
    if cuts(target, options):
        return None
    if not needed_kernels(bundle, target):
        return PLUGINS
    limit = SHARED_LIMIT[target.architecture] if options.large_shared_memory else PLAIN_SHARED_LIMIT
    kernels = OperatorKernels.of(bundle, target.architecture).read(folder / KERNELS, limit)
    without = [operator for operator, tactics in kernels.items() if not tactics]
    if without:
        notify(
            f"cutting the graphs at their custom nodes: no kernel of {', '.join(without)} for "
            f"{target.architecture} takes {limit >> 10} KB of shared memory or less"
        )
        return None
    register_plugins(kernels, folder / KERNELS)
    return PLUGINS


def _add_kernels(root: Path, bundle: Bundle, target: Target, folder: Path, notify: Notify) -> None:
    """Compile the kernels once for all sizes, and link them into the folder."""
    kernels = OperatorKernels.of(bundle, target.architecture)
    store = root / KERNELS / f"{kernels.architecture}-{kernels.precision}-d{kernels.head_dim}"
    with making(store, notify):
        kernels.compile(store)
        shutil.copytree(store, folder / KERNELS)

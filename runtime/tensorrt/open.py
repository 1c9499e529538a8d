"""Finding, or building, the engines of a stream, and opening an executor on them."""

import shlex
from dataclasses import replace
from pathlib import Path

from flashvsr_trt.bundle import PRECISIONS, Bundle
from flashvsr_trt.cache.bundle import bundle_for, find_bundle, weights_bytes
from flashvsr_trt.cache.entries import mark_in_use
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.config.signatures import COLOR_FIXES, UPSAMPLERS, StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.engines.build import find_or_build_engines
from flashvsr_trt.engines.cache import (
    engine_folder,
    engine_key,
    find_engines,
    find_engines_of_any_options,
    list_engines,
)
from flashvsr_trt.engines.device import Device, current_device
from flashvsr_trt.engines.flavours import (
    BFLOAT16_CAPABILITY,
    ONNXRUNTIME,
    Target,
    choose_target,
)
from flashvsr_trt.engines.manifest import BUILD_AGAIN, MANIFEST, EngineSet, open_engines
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.errors import CacheError, DeviceError, EngineError, UsageError
from flashvsr_trt.memory import MemoryEstimate
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.choose_tiles import as_vram, choose_tiles, least_vram
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice, device_index
from flashvsr_trt.runtime.tensorrt.device_memory import (
    check_device_memory,
    estimate_before_building,
    memory_before_loading,
)
from flashvsr_trt.runtime.tensorrt.engine import TensorRTRunner
from flashvsr_trt.runtime.tensorrt.engine_runner import EngineRunner
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from flashvsr_trt.runtime.tensorrt.named_engines import (
    check_engines,
    check_precision,
    check_weights,
    find_named_engines,
    first_that_fits,
    said_options,
)
from flashvsr_trt.runtime.tensorrt.run_profile import RunProfile
from flashvsr_trt.runtime.tensorrt.tiles import in_tiles
from flashvsr_trt.runtime.tiles import TiledExecutor


def open_tensorrt_executor(request: ExecutorRequest, notify: Notify) -> TensorRTExecutor | TiledExecutor:
    """The factory of `runtime.backends`: engines of the flavour that is installed, built where none are.

    Raises:
        UsageError: the device is no GPU, engines have no such dtype, or they need more than `vram`.
        DeviceError: no such GPU, or too little memory on it.
        EngineError: there are none and none may be built, building failed, or those named do not fit.
        MissingDependencyError: neither flavour is installed, or not one for this GPU.
    """
    whole, vram = request.stream, request.tiles.vram
    request, plan = _in_tiles(request) or _in_new_tiles(request, notify)
    engines = (_named if request.engines.folder else _engines)(request, notify)
    device = CudaDevice(device_index(request.device))
    profile = RunProfile() if request.engines.profile else None
    executor = open_engines_on(device, engines, request.torch.cuda_graphs is not False, profile)
    if plan:
        return in_tiles(executor, whole, plan, vram, notify)
    if vram and executor.needed.total > vram:
        raise UsageError(
            f"--vram {as_vram(vram)} is too little: these engines of whole frames need "
            f"{least_vram(executor.needed.total)}; smaller --tile need less"
        )
    return executor


def _in_tiles(request: ExecutorRequest) -> tuple[ExecutorRequest, TilePlan | None] | None:
    """The request whose stream engines are looked for, and its tiles; None of whole frames. As it was asked
    for, or as engines are there: of whole frames, else of the fewest tiles. None where neither says it.
    """
    stream, tile = request.stream, request.tiles.tile
    if isinstance(tile, tuple):
        plan = TilePlan(stream.geometry, tile)
        return replace(request, stream=plan.tile_stream(stream)), plan
    if tile == "off" or stream.upsampler != UPSAMPLERS[0]:
        return request, None
    try:
        folder = Path(request.engines.folder or _root())
    except CacheError:
        return request, None  # no cache holds engines
    sets = [open_engines(folder)] if (folder / MANIFEST).is_file() else list_engines(folder)
    # Those that are sure to need more than there may be taken are passed over, unless they are named.
    vram = None if request.engines.folder else request.tiles.vram
    whole = (engines for engines in sets if isinstance(engines, EngineSet))
    kept = [
        engines.bundle.stream
        for engines in whole
        if vram is None or _needed_before_loading(engines).total <= vram
    ]
    if stream in kept:
        return request, None
    plans = [TilePlan(stream.geometry, other.geometry.target) for other in kept if other.is_tile]
    fitting = [plan for plan in plans if plan.tile_stream(stream) in kept]
    for plan in sorted(fitting, key=lambda plan: len(plan.tiles)):
        of_tile = replace(request, stream=plan.tile_stream(stream))
        if request.engines.folder or _find_for_gpu(of_tile):
            return of_tile, plan
    return None


def _in_new_tiles(request: ExecutorRequest, notify: Notify) -> tuple[ExecutorRequest, TilePlan | None]:
    """Of engines that are to be built: the tiles that are the least work and will fit, as far as is known.

    Their own needs are exact once they are loaded; until then torch's are taken for the stages' work.
    """
    if request.engines.folder or not request.engines.build:
        return request, None
    device, stream = CudaDevice(device_index(request.device)), request.stream
    precision = _precision(request, _target(request))
    weights = weights_bytes(stream, request.weights, precision)

    def estimate(stream: StreamConfig, plan: TilePlan | None) -> MemoryEstimate:
        return estimate_before_building(stream, plan, weights, PRECISIONS[precision])

    free = device.free_and_total_memory()[0]
    plan = choose_tiles(stream, request.tiles, estimate, free, device.name, notify)
    return (replace(request, stream=plan.tile_stream(stream)), plan) if plan else (request, None)


def open_engines_on(
    device: CudaDevice, engines: EngineSet, cuda_graphs: bool = True, profile: RunProfile | None = None
) -> TensorRTExecutor:
    """An executor on a folder of engines.

    Raises:
        EngineError: they are damaged, or of another GPU or version.
        DeviceError: they do not fit the device.
        MissingDependencyError: their flavour is not installed.
    """
    manifest, bundle = engines.manifest, engines.bundle
    check_engines(engines, device)
    needed = _needed_before_loading(engines)
    free = device.free_and_total_memory()[0]
    check_device_memory(bundle.stream, bundle.compute, needed, free, device.name)
    facts = {
        "flavour": manifest.key.flavour,
        "version": manifest.key.version,
        "engines": str(engines.folder),
    }
    runner = _runner(engines, device)
    return TensorRTExecutor(bundle, manifest.plans, runner, device, cuda_graphs, profile, facts)


def _needed_before_loading(engines: EngineSet) -> MemoryEstimate:
    manifest, bundle = engines.manifest, engines.bundle
    stored = manifest.size_bytes
    if manifest.key.options.strip_weights or manifest.key.flavour == ONNXRUNTIME.name:
        stored += bundle.weights.file.size_bytes
    return memory_before_loading(bundle.stream, bundle.compute, manifest.plans, stored)


def _runner(engines: EngineSet, device: CudaDevice) -> EngineRunner:
    if engines.manifest.key.flavour != ONNXRUNTIME.name:
        return TensorRTRunner(engines)
    from flashvsr_trt.runtime.onnxruntime.engine import OnnxRuntimeRunner

    return OnnxRuntimeRunner(engines, device, device.index)


def check_stream(engines: EngineSet, stream: StreamConfig) -> None:
    own = engines.bundle.stream
    if own != stream:
        raise EngineError(
            f"{engines.folder} holds engines of {_described(own)}, and not of {_described(stream)}; "
            f"{BUILD_AGAIN}"
        )


def find_matching_engines(request: ExecutorRequest) -> EngineSet | None:
    """Engines that are there for a stream on this machine's GPU; None where there are none.

    Raises:
        FlashVSRError: why there can be none, or what is wrong with those that are there.
    """
    of_kept, _ = _in_tiles(request) or (request, None)
    return _find_for_gpu(of_kept)


def _find_for_gpu(request: ExecutorRequest) -> EngineSet | None:
    return _find(request, _target(request), lambda line: None)


def build_command(request: ExecutorRequest, precision: str, flavour: str) -> str:
    stream = request.stream
    geometry = stream.geometry
    options = {
        "--preset": stream.preset.name,
        "--input-size": f"{geometry.width}x{geometry.height}",
        "--scale": str(geometry.scale),
        "--schedule": stream.schedule.name,
        "--fit": geometry.fit,
        "--precision": precision,
        "--flavour": flavour,
    }
    if stream.is_tile:
        options = {"--tile": options.pop("--input-size"), **options}
        del options["--scale"], options["--fit"]
    if stream.upsampler != UPSAMPLERS[0]:
        options["--upsampler"] = stream.upsampler
    if stream.color_fix != COLOR_FIXES[0]:
        options["--color-fix"] = stream.color_fix
    if request.weights:
        options["--weights"] = request.weights
    words = [word for option in options.items() for word in option]
    return shlex.join(["flashvsr-trt", "engines", "build", *words])


def _named(request: ExecutorRequest, notify: Notify) -> EngineSet:
    """The engines that --engines names. Raises why they do not fit the request."""

    def check(engines: EngineSet) -> None:
        check_stream(engines, request.stream)
        check_precision(engines, request.dtype)
        check_weights(engines, request.weights)

    folder, device = Path(request.engines.folder or ""), find_device(request.device)
    return find_named_engines(folder, device, request.engines.flavour, check, notify)


def _engines(request: ExecutorRequest, notify: Notify) -> EngineSet:
    """The engines that match, or new ones if the request lets them be built."""
    target = _target(request)
    precision = _precision(request, target)
    builds = request.engines.build
    found = _build(request, target, precision, notify) if builds else _find(request, target, notify)
    if found is None:
        raise EngineError(
            f"there are no {target.flavour.title} engines of {_described(request.stream)} for "
            f"{target.device}; build them with: {build_command(request, precision, target.flavour.name)}"
        )
    check_stream(found, request.stream)
    return found


def _find(request: ExecutorRequest, target: Target, notify: Notify) -> EngineSet | None:
    bundle = find_bundle(request.stream, request.weights, _precision(request, target))
    if not bundle:
        return None
    found = find_engines(_root(), bundle, engine_key(bundle, target, BuildOptions()))
    if found:
        _use(found)
    return found or _with_other_options(bundle, target, notify)


def _build(request: ExecutorRequest, target: Target, precision: str, notify: Notify) -> EngineSet:
    bundle = bundle_for(request.stream, request.weights, precision, notify)
    if not engine_folder(_root(), bundle, engine_key(bundle, target, BuildOptions())).exists():
        found = _with_other_options(bundle, target, notify)
        if found:
            return found
        notify(
            f"building {target.flavour.title} engines of {_described(request.stream)} for {target.device}: "
            "once for this size"
        )
    return find_or_build_engines(_root(), bundle, target, notify=notify)


def _with_other_options(bundle: Bundle, target: Target, notify: Notify) -> EngineSet | None:
    """The newest whole engines that were built with other options than the defaults, announced."""
    kept = find_engines_of_any_options(_root(), bundle, engine_key(bundle, target, BuildOptions()))
    found = first_that_fits(kept, _use, lambda error: notify(f"left aside: {error}"))
    if found:
        notify(f"engines {found.folder.name}{said_options(found)}: none are there of the default options")
    return found


def _use(engines: EngineSet) -> None:
    """Mark engines as in use, and raise EngineError if they are damaged."""
    mark_in_use(engines.folder)
    engines.check_contents()


def _target(request: ExecutorRequest) -> Target:
    # There is a GPU: nothing is to be said of building for another.
    return choose_target(request.engines.flavour, None, find_device(request.device), lambda line: None)


def _root() -> Path:
    return cache_folder("engines")


def find_device(name: str) -> Device:
    """The GPU that `--device` names. Raises DeviceError where there is none."""
    index = device_index(name)
    first = current_device()
    if first is None:
        raise DeviceError(
            "engines run on an NVIDIA GPU, and there is none here, or no driver, or no cuda-python; see "
            "`flashvsr-trt doctor`, or use --backend onnxruntime or torch"
        )
    if not index:
        return first
    device = CudaDevice(index)
    return replace(first, name=device.name, capability=device.capability)


def _precision(request: ExecutorRequest, target: Target) -> str:
    """The bundle's precision that a dtype means: "auto" is bfloat16 where GPU and flavour compute in it."""
    if request.dtype == "auto":
        preferred = target.flavour.precisions[0]
        return preferred if float(target.capability) >= BFLOAT16_CAPABILITY else "fp16"
    by_dtype = {dtype: name for name, dtype in PRECISIONS.items()}
    if request.dtype not in by_dtype:
        raise UsageError(f"dtype '{request.dtype}' is not supported; use auto, {', '.join(by_dtype)}")
    return by_dtype[request.dtype]


def _described(stream: StreamConfig) -> str:
    height, width = stream.geometry.upscaled
    return f"{stream.preset.name} at {width}x{height} ({stream.scale_word}, {stream.schedule.name})"

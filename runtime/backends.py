"""Which executors there are, and opening one. A backend's own packages are imported in its factory."""

from collections.abc import Callable
from dataclasses import replace

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, SCALES, UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import UsageError
from flashvsr_trt.missing_parts import named_missing_parts
from flashvsr_trt.notices import Notify, log_notice
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.request import EngineOptions, ExecutorRequest, TileOptions, TorchOptions
from flashvsr_trt.runtime.session import Session


def open_torch(request: ExecutorRequest, notify: Notify) -> Executor:
    """The PyTorch reference path, on one device or on every rank of a torchrun job."""
    if torchrun_place():
        from flashvsr_trt.runtime.distributed.executor import open_distributed_executor

        return open_distributed_executor(request, notify)
    from flashvsr_trt.runtime.torch.open import open_torch_executor

    return open_torch_executor(request, notify)


def open_onnxruntime(request: ExecutorRequest, notify: Notify) -> Executor:
    """The exported graphs on the CPU or CUDA; a stream that was not exported yet is, once."""
    from flashvsr_trt.runtime.onnxruntime.executor import open_onnxruntime_executor

    return open_onnxruntime_executor(request, notify)


def open_tensorrt(request: ExecutorRequest, notify: Notify) -> Executor:
    """Engines of TensorRT or TensorRT-RTX on a GPU; those that are missing are built, once."""
    from flashvsr_trt.runtime.tensorrt.open import open_tensorrt_executor

    return open_tensorrt_executor(request, notify)


FACTORIES: dict[str, Callable[[ExecutorRequest, Notify], Executor]] = {
    "torch": open_torch,
    "onnxruntime": open_onnxruntime,
    "tensorrt": open_tensorrt,
}

BACKENDS = ("auto", *FACTORIES)


def open_executor(backend: str, request: ExecutorRequest, notify: Notify = log_notice) -> Executor:
    """The executor of that backend; "auto" is chosen, and announced, by what there is.

    Raises:
        UsageError: no such backend, or options that another one has.
        WeightsError, DeviceError, MissingDependencyError: as the backend finds.
    """
    if backend == "auto":
        from flashvsr_trt.runtime.choose_backend import choose_backend

        backend = choose_backend(request, notify)
        if backend != "tensorrt":
            # Auto takes engines that are there and builds none: --no-build asks nothing of the others.
            request = replace(request, engines=replace(request.engines, build=True))
    if backend not in FACTORIES:
        raise UsageError(f"no backend '{backend}'; choose one of: {', '.join(BACKENDS)}")
    _check_options(backend, request)
    with named_missing_parts():
        return FACTORIES[backend](request, notify)


def _check_options(backend: str, request: ExecutorRequest) -> None:
    shared = replace(request.torch, cuda_graphs=None) if backend == "tensorrt" else request.torch
    if backend != "torch" and shared != TorchOptions():
        raise UsageError(
            "--attention, --compile, --kv-cache and --cuda-graphs belong to --backend torch, "
            f"not to {backend}"
        )
    if backend != "tensorrt" and request.engines != EngineOptions():
        raise UsageError(
            f"--no-build, --profile, --flavour and --engines belong to --backend tensorrt, not to {backend}"
        )


def open_session(
    height: int,
    width: int,
    *,
    scale: int = 2,
    preset: str = DEFAULT_PRESET,
    schedule: str = "official",
    fit: str = "pad",
    weights: str | None = None,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    chunk_size: int = UNIT_FRAMES,
    seed: int = 0,
    engines: str | None = None,
    tile: str | tuple[int, int] = "auto",
    vram: int | None = None,
) -> Session:
    """A session for a clip of `height` x `width` frames: all defaults are those of `flashvsr-trt run`.

    `engines` is a folder of engines, or of several sets of them, to run instead of looking for some. `tile`
    and `vram` are those of `TileOptions`.

    Raises:
        FlashVSRError: one of its kinds, for each argument that cannot be used.
    """
    if scale not in SCALES:
        raise UsageError(f"scale {scale} is not supported; use one of {SCALES}")
    stream = StreamConfig(find_preset(preset), Geometry(height, width, scale, fit), find_schedule(schedule))
    options = {"engines": EngineOptions(folder=engines), "tiles": TileOptions(tile, vram)}
    executor = open_executor(backend, ExecutorRequest(stream, weights, device, dtype, **options))
    return Session(executor, chunk_size=chunk_size, seed=seed)

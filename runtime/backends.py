"""Which executors there are, what "auto" means, and opening one. A backend's packages are imported here only
in its factory."""

import pkgutil
from dataclasses import replace

from flashvsr_trt.cache.bundle import find_bundle
from flashvsr_trt.cache.folder import check_writable
from flashvsr_trt.errors import CacheError, FlashVSRError, UsageError, named_missing_parts
from flashvsr_trt.extras import install_command, is_installed
from flashvsr_trt.notices import Notify, log_notice, phase
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.request import EngineOptions, ExecutorRequest, TorchOptions

FACTORIES = {
    # PyTorch, on one device; the reference path of all others.
    "torch": "flashvsr_trt.runtime.torch.open:open_torch_executor",
    # The exported graphs on the CPU or CUDA; a stream that was not exported yet is, once.
    "onnxruntime": "flashvsr_trt.runtime.onnxruntime.executor:open_onnxruntime_executor",
    # Engines of TensorRT or TensorRT-RTX on a GPU; those that are missing are built, once.
    "tensorrt": "flashvsr_trt.runtime.tensorrt.open:open_tensorrt_executor",
}
"""What opens an executor of a backend for an ExecutorRequest, imported when it is asked for."""

OPEN_ON_RANKS = "flashvsr_trt.runtime.distributed.executor:open_distributed_executor"
"""The torch backend on every rank of a torchrun job."""

BACKENDS = ("auto", *FACTORIES)


def open_executor(backend: str, request: ExecutorRequest, notify: Notify = log_notice) -> Executor:
    """The executor of that backend; "auto" is chosen, and announced, by what there is.

    Raises:
        UsageError: no such backend, or options that another one has.
        WeightsError, DeviceError, MissingDependencyError: as the backend finds.
    """
    with phase("loading"):
        return _open(backend, request, notify)


def _open(backend: str, request: ExecutorRequest, notify: Notify) -> Executor:
    if backend == "auto":
        backend = choose_backend(request, notify)
        if backend != "tensorrt":
            # Auto takes engines that are there and builds none: --no-build asks nothing of the others.
            request = replace(request, engines=replace(request.engines, build=True))
    if backend not in FACTORIES:
        raise UsageError(f"no backend '{backend}'; choose one of: {', '.join(BACKENDS)}")
    _check_options(backend, request)
    with named_missing_parts():
        on_ranks = backend == "torch" and torchrun_place()
        return pkgutil.resolve_name(OPEN_ON_RANKS if on_ranks else FACTORIES[backend])(request, notify)


def _check_options(backend: str, request: ExecutorRequest) -> None:
    shared = replace(request.torch, cuda_graphs=None) if backend == "tensorrt" else request.torch
    if backend != "torch" and shared != TorchOptions():
        raise UsageError(
            "--attention, --precision, --compile, --kv-cache and --cuda-graphs belong to --backend torch, "
            f"not to {backend}"
        )
    if backend != "tensorrt" and request.engines != EngineOptions():
        raise UsageError(
            f"--no-build, --profile, --flavour and --engines belong to --backend tensorrt, not to {backend}"
        )


def choose_backend(request: ExecutorRequest, notify: Notify) -> str:
    """The backend for a request: engines that are there, else torch on a GPU, else ONNX Runtime on the CPU.

    It is announced in one line with the reason.
    """
    backend, reason = _choose(request)
    notify(f"backend {backend}: {reason}")
    return backend


def _choose(request: ExecutorRequest) -> tuple[str, str]:
    if torchrun_place():
        return "torch", "several ranks share the clip"
    if request.engines.folder:
        return "tensorrt", "--engines names what it runs"
    if replace(request.torch, cuda_graphs=None) != TorchOptions():
        return "torch", "options that only it has were given"
    no_engines = _why_no_engines(request)
    if no_engines is None:
        return "tensorrt", "engines of this stream are there for this GPU"
    if request.device not in ("auto", "cpu"):
        return "torch", f"--device {request.device}; {no_engines}"
    if request.device == "auto" and _torch_has_gpu():
        return "torch", f"on the GPU; {no_engines}"
    missing = _why_no_onnxruntime(request)
    if missing is None:
        return "onnxruntime", "on the CPU"
    return "torch", f"on the CPU; {missing}"


def _why_no_engines(request: ExecutorRequest) -> str | None:
    if request.device == "cpu":
        return "engines need a GPU"
    from flashvsr_trt.engines.device import current_device

    if current_device() is None:
        return "engines need a GPU"
    try:
        from flashvsr_trt.runtime.tensorrt.open import find_matching_engines

        found = find_matching_engines(request)
    except FlashVSRError as error:
        return f"no engines ({error})"
    return None if found else "there are no engines of this stream (--backend tensorrt builds them)"


def _why_no_onnxruntime(request: ExecutorRequest) -> str | None:
    """None if ONNX Runtime can run the stream: it was exported, or can be."""
    if request.torch.cuda_graphs is not None:
        return "ONNX Runtime has no --cuda-graphs"
    if request.dtype not in ("auto", "float32"):
        return f"ONNX Runtime is not chosen for {request.dtype}"
    if not is_installed("onnxruntime"):
        return f"no ONNX Runtime: {install_command('cpu')}"
    if is_installed("torch") and is_installed("onnx") and is_installed("onnxscript"):
        try:
            check_writable("bundles")
        except CacheError as error:
            cannot_export = str(error)
        else:
            return None
    else:
        cannot_export = f"exporting needs {install_command('export')}"
    if find_bundle(request.stream, request.weights, "fp32"):
        return None
    return f"the stream was not exported, and {cannot_export}"


def _torch_has_gpu() -> bool:
    if not is_installed("torch"):
        return False
    import torch

    return torch.cuda.is_available()

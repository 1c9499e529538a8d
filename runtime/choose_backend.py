"""What `--backend auto` means: engines that are there, else torch on a GPU, else ONNX Runtime on the CPU."""

import importlib.util
from dataclasses import replace

from flashvsr_trt.cache.bundle import find_bundle
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.request import ExecutorRequest, TorchOptions


def choose_backend(request: ExecutorRequest, notify: Notify) -> str:
    """The backend for a request, announced in one line with the reason."""
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
    if request.tiles.vram:
        return "--vram is not for engines"
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
    if not _installed("onnxruntime"):
        return "no ONNX Runtime: pip install 'flashvsr-trt[cpu]'"
    if _installed("torch") and _installed("onnx") and _installed("onnxscript"):
        return None
    if find_bundle(request.stream, request.weights, "fp32"):
        return None
    return "the stream was not exported, and exporting needs pip install 'flashvsr-trt[export]'"


def _torch_has_gpu() -> bool:
    if not _installed("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False

"""What this machine can do, what is missing, and the command that fixes it."""

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from flashvsr_trt.engines.device import Device, current_device
from flashvsr_trt.engines.flavours import FLAVOURS, Flavour, supported_version
from flashvsr_trt.errors import MissingDependencyError, WeightsError
from flashvsr_trt.presets import DEFAULT_PRESET, find_preset


@dataclass(frozen=True)
class Finding:
    """One part: whether it is there, what it is, and how to get it if not."""

    name: str
    present: bool
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


OPTIONAL_PARTS = (
    ("triton", "triton", "kernels", "compiles the sparse-attention kernels"),
    ("cuda-python", "cuda.bindings", "kernels", "launches kernels without torch"),
    ("onnxruntime", "onnxruntime", "cpu", "runs exported bundles anywhere"),
    ("onnx", "onnx", "export", "exports bundles"),
)
"""Distribution, module, extra that installs it, and what it is for."""


def examine() -> list[Finding]:
    """All findings, the ones a first run needs first."""
    device = current_device()
    return [
        *(_machine(), _torch(), _gpu(), _weights()),
        *(_optional(*part) for part in OPTIONAL_PARTS),
        *(_flavour(flavour, device) for flavour in FLAVOURS.values()),
    ]


def _machine() -> Finding:
    memory = psutil.virtual_memory()
    detail = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    )
    return Finding("machine", True, detail)


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(
            "torch", False, "no PyTorch: only exported bundles and engines run", "pip install torch"
        )
    return Finding("torch", True, importlib.metadata.version("torch"))


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", False, "not looked for: that needs torch", "pip install torch")
    import torch

    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            names.append(
                f"{properties.name} (sm_{properties.major}{properties.minor}, "
                f"{properties.total_memory / 2**30:.0f} GiB)"
            )
        return Finding("gpu", True, "; ".join(names))
    if torch.version.cuda is None:
        return Finding(
            "gpu",
            False,
            "this PyTorch is a CPU build: runs are slow, nano is what a CPU is for",
            "on a machine with an NVIDIA GPU: pip install --force-reinstall torch",
        )
    return Finding("gpu", False, "no NVIDIA GPU seen by the driver", "check nvidia-smi, then the driver")


def _weights() -> Finding:
    from flashvsr_trt.model.weights_source import describe, resolve_weights

    try:
        source = resolve_weights(None, find_preset(DEFAULT_PRESET).network)
    except WeightsError:
        return Finding(
            "weights",
            False,
            "no FlashVSR v1.1 weights in FLASHVSR_WEIGHTS or the Hugging Face cache",
            "flashvsr-trt weights pull; nano needs none, it has its own",
        )
    return Finding("weights", True, describe(source))


def _optional(distribution: str, module: str, extra: str, purpose: str) -> Finding:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        return Finding(distribution, False, purpose, f"pip install 'flashvsr-trt[{extra}]'")
    return Finding(distribution, True, f"{_version(distribution)}: {purpose}")


def _flavour(flavour: Flavour, device: Device | None) -> Finding:
    """What one kind of engines can be built for here, and whether they run here."""
    name = f"{flavour.name} engines"
    capabilities = ", ".join(flavour.capabilities)
    try:
        version = supported_version(flavour)
    except MissingDependencyError as error:
        problem, _, install = str(error).rpartition(": ")
        return Finding(name, False, f"{problem}; it is for compute capability {capabilities}", install)
    fits = device is not None and device.capability in flavour.capabilities
    builds = capabilities if flavour.portable else device.capability if device and fits else "nothing"
    if fits:
        runs = f"runs on {device.name} ({device.capability}, CUDA {device.driver})"
    elif device:
        runs = f"does not run on {device.name} ({device.capability})"
    else:
        runs = "runs nothing: no GPU"
    return Finding(
        name, fits or flavour.portable, f"{flavour.title} {version}: builds for {builds} here; {runs}"
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"

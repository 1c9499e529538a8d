"""What this machine can do, what is missing, and the command that fixes it."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from huggingface_hub.constants import HF_HUB_CACHE

from flashvsr_trt.cache.folder import CACHE_VARIABLE, cache_root
from flashvsr_trt.cli.verdict import verdict
from flashvsr_trt.config.presets import DEFAULT_PRESET, find_preset
from flashvsr_trt.engines.device import Device, current_device
from flashvsr_trt.engines.flavours import FLAVOURS, Flavour
from flashvsr_trt.engines.readiness import readiness
from flashvsr_trt.errors import CacheError, WeightsError
from flashvsr_trt.extras import TORCH, TORCH_FOR_CUDA, install_command, is_installed
from flashvsr_trt.runtime.video.encoders_here import encoders_here


@dataclass(frozen=True)
class Finding:
    """One part: whether it is there, what it is, and how to get it if not."""

    name: str
    present: bool
    detail: str
    fix: str = ""
    optional: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)
    """What JSON tells besides."""

    @property
    def state(self) -> str:
        """In a word."""
        return "ok" if self.present else "optional" if self.optional else "missing"

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return found | found.pop("more")


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
        *(_machine(), _torch(), _gpu(), _weights(), _disk(), _encoders()),
        *(_optional(*part) for part in OPTIONAL_PARTS),
        *(_flavour(flavour, device) for flavour in FLAVOURS.values()),
        *_verdict(device),
    ]


def _machine() -> Finding:
    memory = psutil.virtual_memory()
    detail = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    )
    return Finding("machine", True, detail)


def _torch() -> Finding:
    if not is_installed("torch"):
        return Finding("torch", False, "no PyTorch: only exported bundles and engines run", TORCH)
    return Finding("torch", True, importlib.metadata.version("torch"))


def _gpu() -> Finding:
    if not is_installed("torch"):
        return Finding("gpu", False, "not looked for: that needs torch", TORCH)
    import torch

    if torch.cuda.is_available():
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        names = [
            f"{card.name} (sm_{card.major}{card.minor}, {card.total_memory / 2**30:.0f} GiB)"
            for card in cards
        ]
        return Finding("gpu", True, "; ".join(names))
    if torch.version.cuda is None:
        return Finding(
            "gpu",
            False,
            "this PyTorch is a CPU build: runs are slow, nano is what a CPU is for",
            f"on a machine with an NVIDIA GPU: {TORCH_FOR_CUDA}",
            optional=True,
        )
    fix = "check nvidia-smi, then the driver"
    return Finding("gpu", False, "no NVIDIA GPU seen by the driver", fix, optional=True)


def gpu_memory() -> int | None:
    """Bytes of the first GPU; None where torch sees none."""
    if not is_installed("torch"):
        return None
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _weights() -> Finding:
    from flashvsr_trt.model.weights.source import describe, resolve_weights

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


DISK_BYTES = 20e9
"""Weights, a bundle of them and engines are about 6 GB each."""


def _disk() -> Finding:
    """Room where weights, bundles and engines are kept."""
    try:
        places = {"the cache": cache_root(), "weights": Path(HF_HUB_CACHE)}
    except CacheError as error:
        return Finding("disk", False, str(error), f"set {CACHE_VARIABLE}")
    free = {what: (_free_bytes(path), path) for what, path in places.items()}
    details = [f"{size / 1e9:,.1f} GB free for {what} ({path})" for what, (size, path) in free.items()]
    enough = all(size >= DISK_BYTES for size, _ in free.values())
    fix = f"the published weights with their engines need about {DISK_BYTES / 1e9:.0f} GB; nano needs none"
    return Finding("disk", enough, "; ".join(details), "" if enough else fix, optional=True)


def _free_bytes(path: Path) -> int:
    """On the disk of a folder, which may not be there yet."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(there).free


def _encoders() -> Finding:
    """What of a GPU encodes video here; a CPU always can."""
    found = encoders_here(hardware=True)
    opening = [encoder.name for encoder in found if encoder.why_not is None]
    if opening:
        return Finding("encoders", True, f"{', '.join(opening)} open here, for --codec")
    known = ", ".join(encoder.name for encoder in found) or "none"
    return Finding(
        "encoders", True, f"libx264 and others on the CPU (run --list-codecs); on a GPU none of {known} opens"
    )


def _verdict(device: Device | None) -> list[Finding]:
    return [Finding("verdict", True, verdict(device))] if is_installed("torch") else []


def _optional(distribution: str, module: str, extra: str, purpose: str) -> Finding:
    if is_installed(module):
        return Finding(distribution, True, f"{_version(distribution, module)}: {purpose}")
    return Finding(distribution, False, purpose, install_command(extra), optional=True)


def _flavour(flavour: Flavour, device: Device | None) -> Finding:
    """What one kind of engines can be built for here, and whether they run here."""
    found = readiness(flavour, device)
    lacking = [part for part in found.missing if part.part != flavour.title]
    about = f"{flavour.title} {found.version}" if found.version else found.missing[0].purpose
    details = [about, *(f"no {part.part}, which is for {part.purpose}" for part in lacking)]
    if found.builds:
        details.append(f"builds for {', '.join(found.builds)} here")
        details.append(f"sparse presets for {', '.join(found.builds_sparse) or 'none of them'}")
    else:
        details.append("builds for nothing here")
    if found.runs_on and device:
        details.append(f"runs on {device.name} ({device.capability}, CUDA {device.driver})")
    else:
        details.append(f"does not run here: {found.why_not_run}")
    if found.builds != flavour.capabilities:
        details.append(f"it is for compute capability {', '.join(flavour.capabilities)}")
    return Finding(
        name=f"{flavour.name} engines",
        present=bool(found.builds or found.runs_on),
        detail="; ".join(details),
        fix="; ".join(dict.fromkeys(part.fix for part in found.missing)),
        optional=True,
        more={"capabilities": flavour.capabilities, "readiness": found},
    )


def _version(distribution: str, module: str) -> str:
    """Of the distribution; of another that has the module, with its name, where that one is here."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        owners = importlib.metadata.packages_distributions().get(module.partition(".")[0], [])
        return (
            ", ".join(f"{owner} {importlib.metadata.version(owner)}" for owner in owners) or "version unknown"
        )

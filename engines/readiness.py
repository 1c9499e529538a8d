"""Whether engines of a flavour can be built and run here, for which GPUs, and what is missing for that."""

import sys
from dataclasses import dataclass

from flashvsr_trt.engines.device import Device, current_device
from flashvsr_trt.engines.flavours import (
    Flavour,
    Target,
    choose_flavour,
    installed_version,
    supported_version,
)
from flashvsr_trt.errors import FlashVSRError, MissingDependencyError
from flashvsr_trt.extras import environment_command, install_command, is_installed
from flashvsr_trt.kernels.tuning import ARCHITECTURES

EXPORTING = ("torch", "onnx", "onnxscript", "onnx_ir")
"""Modules that make a bundle, and the builder's graphs of it; the first only the bundle."""

SPARSE = ("triton",)
"""Modules that compile the kernels of the sparse presets."""

RUNNING = ("cuda.bindings",)
"""Modules that see a GPU and run on it."""


@dataclass(frozen=True)
class Missing:
    """A part that is not here, what is impossible without it, and what installs it."""

    part: str
    purpose: str
    fix: str


@dataclass(frozen=True)
class Readiness:
    """What one flavour can do on this machine.

    Attributes:
        version: of the builder; None where there is none that fits.
        builds: compute capabilities that engines of full-attn presets can be built for.
        builds_sparse: those that engines of sparse presets can be built for.
        runs_on: the capability of the GPU here, if it runs such engines; else None.
        why_not_run: why `runs_on` is None.
        missing: every part that would let it do more.
    """

    version: str | None
    builds: tuple[str, ...]
    builds_sparse: tuple[str, ...]
    runs_on: str | None
    why_not_run: str | None
    missing: tuple[Missing, ...]


def readiness(flavour: Flavour, device: Device | None) -> Readiness:
    """What a flavour can do with what is installed, and the GPU that is here if one is seen."""
    in_the_way = _in_the_way(flavour)
    fix = _own_environment(flavour) if in_the_way else install_command(flavour.extra)
    missing: list[Missing] = []
    try:
        version = supported_version(flavour)
    except MissingDependencyError as error:
        version = None
        reason, _, command = str(error).rpartition(": ")
        if in_the_way:
            reason, command = f"{reason}, and {in_the_way}", fix
        missing.append(Missing(flavour.title, reason, command))
    for modules, purpose in (
        (EXPORTING, "exporting and building"),
        (SPARSE, "building sparse presets"),
        (RUNNING, "seeing a GPU and running on it"),
    ):
        missing += [Missing(module, purpose, fix) for module in modules if not is_installed(module)]
    absent = {part.part for part in missing}
    fits = device is not None and device.capability in flavour.capabilities
    builds: tuple[str, ...] = ()
    if version and absent.isdisjoint(EXPORTING):
        builds = flavour.capabilities if flavour.portable else (device.capability,) if device and fits else ()
    sparse = tuple(c for c in builds if Target(flavour, version or "", c).architecture in ARCHITECTURES)
    why_not = _why_not_run(flavour, version, device)
    return Readiness(
        version=version,
        builds=builds,
        builds_sparse=sparse if absent.isdisjoint(SPARSE) else (),
        runs_on=device.capability if device and why_not is None else None,
        why_not_run=why_not,
        missing=tuple(missing),
    )


def _why_not_run(flavour: Flavour, version: str | None, device: Device | None) -> str | None:
    if not is_installed(RUNNING[0]):
        return "no cuda-python to see a GPU with"
    if device is None:
        return "no GPU"
    if device.capability not in flavour.capabilities:
        return f"{device.name} has {device.capability}"
    return None if version else f"no {flavour.title} that fits"


def _in_the_way(flavour: Flavour) -> str | None:
    """That another package has the flavour's module here, and would be spoilt; None where that is not so."""
    if not flavour.shares_module or installed_version(flavour) or not is_installed(flavour.module):
        return None
    return f"{flavour.distribution} cannot stand beside the {flavour.module} that is installed here"


def _own_environment(flavour: Flavour) -> str:
    """The command that makes an environment for a flavour alone."""
    return environment_command(f".venv-{flavour.name}", flavour.extra)


def check_can_build(flavour: str, capability: str | None = None, exports: bool = True) -> None:
    """Ask for all that building needs at once, before any of it is imported.

    Args:
        exports: whether a bundle is exported first, by torch; one that is there needs none.

    Raises:
        UsageError, EngineError, DeviceError: as `flavours.choose_flavour`.
        MissingDependencyError: the builder, or a module beside it, is not here; names the one extra of all.
    """
    chosen, _ = choose_flavour(flavour, capability, current_device())
    supported_version(chosen)
    needed = EXPORTING if exports else EXPORTING[1:]
    missing = [module for module in needed if not is_installed(module)]
    if missing:
        raise MissingDependencyError(
            f"building {chosen.name} engines needs {', '.join(missing)}: {install_command(chosen.extra)}"
        )


def missing_extra(flavour: str, capability: str | None = None) -> str:
    """The extra that brings what is missing to build such engines here; "" where all is there.

    Raises:
        UsageError, EngineError, DeviceError: as `flavours.choose_flavour`.
        MissingDependencyError: another package with the flavour's module is here, and would be spoilt.
    """
    device = current_device()
    chosen, _ = choose_flavour(flavour, capability, device)
    if not readiness(chosen, device).missing:
        return ""
    in_the_way = _in_the_way(chosen)
    if in_the_way:
        raise MissingDependencyError(
            f"{in_the_way}: make an environment of its own with: {_own_environment(chosen)}, and build there"
        )
    return chosen.extra


if __name__ == "__main__":  # `make engines` asks
    try:
        print(missing_extra(*sys.argv[1:]))
    except FlashVSRError as error:
        sys.exit(f"error: {error}")

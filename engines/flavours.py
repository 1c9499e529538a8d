"""The kinds of engines, what each is built for, and which one a request means."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from flashvsr_trt.engines.device import Device
from flashvsr_trt.errors import DeviceError, EngineError, MissingDependencyError, UsageError
from flashvsr_trt.extras import install_command, is_installed


@dataclass(frozen=True)
class Flavour:
    """A runtime and its builder.

    Attributes:
        module: the Python module, `distribution` the package that has it, `extra` ours that installs it.
        oldest: the first version whose API is known to fit, `below` the first that is not.
        capabilities: compute capabilities that it builds for.
        portable: builds without a GPU, for any of them; else only for the device that it builds on.
        takes_plugins: custom nodes can be plugins, inside the engines.
        precisions: of the bundles that it takes, the preferred one first.
        shares_module: another package has a module of the same name, so only the distribution tells.
    """

    name: str
    title: str
    module: str
    distribution: str
    extra: str
    oldest: tuple[int, int]
    below: tuple[int, int]
    capabilities: tuple[str, ...]
    portable: bool
    takes_plugins: bool
    precisions: tuple[str, ...] = ("bf16", "fp16", "fp32")
    shares_module: bool = False


RTX = Flavour(
    name="rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    distribution="tensorrt-rtx",
    extra="rtx",
    oldest=(1, 7),
    below=(2, 0),
    capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    portable=True,
    takes_plugins=False,
)

TENSORRT = Flavour(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    distribution="tensorrt",
    extra="tensorrt",
    # 10.13 loses the name of a plugin's kernel, and the plugins of 10.14 do not work.
    oldest=(10, 15),
    below=(12, 0),
    capabilities=("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"),
    portable=False,
    takes_plugins=True,
)

ONNXRUNTIME = Flavour(
    name="onnxruntime",
    title="ONNX Runtime with CUDA",
    module="onnxruntime",
    distribution="onnxruntime-gpu",
    extra="onnxruntime",
    # The first of CUDA 13 that says which provider each node was given to.
    oldest=(1, 31),
    below=(2, 0),
    # Its kernels are machine code alone, which runs on later devices of the same major number.
    capabilities=("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "12.0", "12.1"),
    portable=True,
    takes_plugins=False,
    # No transposed convolution of its CUDA provider is in bfloat16.
    precisions=("fp16", "fp32"),
    shares_module=True,
)

FLAVOURS = {flavour.name: flavour for flavour in (RTX, TENSORRT, ONNXRUNTIME)}
FLAVOUR_CHOICES = ("auto", *FLAVOURS)

DEFAULT_CAPABILITY = "8.9"
"""Built for where there is no GPU to ask and none is named: GeForce RTX 40."""

BFLOAT16_CAPABILITY = 8.0
"""Older devices do not compute in bfloat16."""


@dataclass(frozen=True)
class Target:
    """What engines are built for. `device` and `driver` are known where the builder has a GPU."""

    flavour: Flavour
    version: str
    capability: str
    device: str | None = None
    driver: str | None = None

    @property
    def architecture(self) -> str:
        return architecture_of(self.capability)


def architecture_of(capability: str) -> str:
    """A compute capability as kernels name it: "sm_89"."""
    return "sm_" + capability.replace(".", "")


def installed_version(flavour: Flavour) -> str | None:
    if not is_installed(flavour.module):
        return None
    try:
        return importlib.metadata.version(flavour.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None if flavour.shares_module else importlib.import_module(flavour.module).__version__


def choose_target(
    flavour: str, capability: str | None, device: Device | None, notify: Callable[[str], None]
) -> Target:
    """What `--flavour` and `--arch` mean on this machine.

    Args:
        flavour: a name of FLAVOURS, or "auto".
        capability: "8.9" and the like; None is the device's.

    Raises:
        UsageError: no such flavour.
        EngineError: the flavour does not build for the capability; says which one does.
        DeviceError: the flavour builds only on the device that it builds for.
        MissingDependencyError: the flavour is not installed.
    """
    chosen, wanted = choose_flavour(flavour, capability, device)
    if not capability and not device:
        notify(f"no GPU here: building for compute capability {wanted}; choose with --arch")
    version = supported_version(chosen)
    here = device if device and device.capability == wanted else None
    return Target(chosen, version, wanted, here and here.name, here and here.driver)


def choose_flavour(flavour: str, capability: str | None, device: Device | None) -> tuple[Flavour, str]:
    """The flavour, installed or not, and the capability that it builds for. Raises as `choose_target`."""
    if flavour not in FLAVOUR_CHOICES:
        raise UsageError(f"no engine flavour '{flavour}'; choose one of: {', '.join(FLAVOUR_CHOICES)}")
    wanted = capability or (device.capability if device else DEFAULT_CAPABILITY)
    chosen = _automatic(wanted, device) if flavour == "auto" else FLAVOURS[flavour]
    reason = _why_not(chosen, wanted, device)
    if reason:
        raise reason
    return chosen, wanted


def supported_version(flavour: Flavour) -> str:
    """The installed version. Raises MissingDependencyError where there is none that fits."""
    version = installed_version(flavour)
    if version is None:
        raise MissingDependencyError(
            f"{flavour.name} engines need {flavour.title}: {install_command(flavour.extra)}"
        )
    major, minor = (int(part) for part in version.split(".")[:2])
    if not flavour.oldest <= (major, minor) < flavour.below:
        oldest, below = (".".join(map(str, v)) for v in (flavour.oldest, flavour.below))
        raise MissingDependencyError(
            f"{flavour.title} {version} is not supported, but {oldest} and later below {below}: "
            f"{install_command(flavour.extra, '--upgrade')}"
        )
    return version


def _automatic(capability: str, device: Device | None) -> Flavour:
    """The installed one that builds for the capability here; where several do, the first of FLAVOURS."""
    able = [f for f in FLAVOURS.values() if _why_not(f, capability, device) is None]
    if not able:
        return RTX
    installed = [flavour for flavour in able if installed_version(flavour)]
    return (installed or able)[0]


def _why_not(flavour: Flavour, capability: str, device: Device | None) -> EngineError | DeviceError | None:
    if capability not in flavour.capabilities:
        others = [f.name for f in FLAVOURS.values() if capability in f.capabilities]
        advice = f"use --flavour {others[0]}" if others else "choose another --arch"
        return EngineError(
            f"{flavour.title} does not build for compute capability {capability}, but for "
            f"{', '.join(flavour.capabilities)}; {advice}"
        )
    if not flavour.portable and (device is None or device.capability != capability):
        here = f"this one has {device.capability}" if device else "there is none here"
        return DeviceError(
            f"{flavour.title} builds on a GPU of the capability that it builds for ({capability}), and "
            f"{here}; build there, or with --flavour rtx"
        )
    return None

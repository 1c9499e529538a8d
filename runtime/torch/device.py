"""Which device and dtype the torch backend runs on, and whether kernels and CUDA graphs are there."""

import torch

from flashvsr_trt.errors import DeviceError, MissingDependencyError, UsageError
from flashvsr_trt.extras import install_command, is_installed
from flashvsr_trt.kernels.calls import architecture_of
from flashvsr_trt.kernels.optional_triton import check_triton
from flashvsr_trt.kernels.tuning import setting_for
from flashvsr_trt.runtime.request import TorchOptions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """ "auto" is the first GPU, or the CPU; anything else as torch spells it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device '{name}' is not known; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise DeviceError(
            f"device '{name}' is not here ({found} GPUs found); use --device cpu, or see `doctor`"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"dtype '{name}' is not supported; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def choose_cuda_graphs(options: TorchOptions, device: torch.device) -> bool:
    """As asked for; by default wherever kernels run. Raises UsageError where there is no GPU to ask."""
    if options.cuda_graphs and device.type != "cuda":
        raise UsageError(f"CUDA graphs need a GPU and the device is {device}; leave out --cuda-graphs")
    if options.cuda_graphs is None:
        return device.type == "cuda" and options.attention == "auto"
    return options.cuda_graphs


def check_kernels(device: torch.device) -> None:
    """Refuse a GPU that the kernels do not run on, before anything is loaded.

    Raises:
        MissingDependencyError: Triton is not installed, or too old for this GPU.
        DeviceError: the GPU is older than every architecture of the tuning table.
    """
    if not is_installed("triton"):
        raise MissingDependencyError(
            f"the kernels need Triton: {install_command('kernels')}, or use --attention reference"
        )
    try:
        setting_for("select_blocks", architecture := architecture_of(device))
    except ValueError as error:
        raise DeviceError(f"no kernels for {device}: {error}; use --attention reference") from error
    check_triton(architecture)

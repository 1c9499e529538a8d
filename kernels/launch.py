"""Loading a compiled kernel and launching it through the CUDA driver: no torch, no Triton, no compiler."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.kernels.cuda_driver import call, driver
from flashvsr_trt.kernels.manifest import SCRATCH_WORD_BYTES, Argument, Artifact, evaluate, read_kernel_file


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel of the current CUDA context. It lives as long as its library."""

    artifact: Artifact
    library: Any
    function: Any


def load_kernel(artifact: Artifact, directory: Path) -> LoadedKernel:
    """Loads a cubin; a CUDA context must be current.

    Raises:
        MissingDependencyError: cuda-python is not installed.
        UsageError: the cubin is not what was written.
        DeviceError: CUDA refuses, named with the kernel and CUDA's own message.
    """
    attribute = driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    about, image = _about(artifact), read_kernel_file(directory, artifact.cubin)
    library = call("cuLibraryLoadData", image, None, None, 0, None, None, 0, about=about)
    kernel = call("cuLibraryGetKernel", library, artifact.entry.encode(), about=about)
    function = call("cuKernelGetFunction", kernel, about=about)
    call("cuFuncSetAttribute", function, attribute, artifact.shared_bytes, about=about)
    return LoadedKernel(artifact, library, function)


@dataclass(frozen=True)
class PreparedLaunch:
    """A kernel with all that does not change from launch to launch of the same shapes: grid and ints."""

    kernel: LoadedKernel
    grid: tuple[int, ...]
    numbers: dict[str, int]


def prepare_launch(
    kernel: LoadedKernel, shapes: dict[str, tuple[int, ...]], values: dict[str, int] | None = None
) -> PreparedLaunch:
    """Evaluates a launch's expressions, once for all launches of these shapes.

    Args:
        shapes: dimensions of every input.
        values: parameters that no shape tells (`top_k`), and ints that differ from the manifest's expression,
            such as strides of tensors that are not contiguous.

    Raises:
        ValueError: a size or value that is unknown, or an int that is not aligned as compiled.
    """
    artifact, values = kernel.artifact, values or {}
    numbers = {}
    for argument in artifact.arguments:
        if argument.role == "int":
            given = values.get(argument.name)
            numbers[argument.name] = evaluate(argument.value, shapes, values) if given is None else given
            _check_aligned(artifact, argument, numbers[argument.name])
    return PreparedLaunch(kernel, tuple(evaluate(size, shapes, values) for size in artifact.grid), numbers)


def launch_prepared(launch: PreparedLaunch, stream: int, pointers: Mapping[str, int]) -> None:
    """Launches a kernel asynchronously on a stream; safe inside a CUDA graph capture.

    Args:
        stream: CUDA stream handle.
        pointers: device address of every input, output and scratch argument.

    Raises:
        ValueError: an argument without address, or one that is not aligned as compiled.
        DeviceError: CUDA refuses, named with the kernel and CUDA's own message.
    """
    artifact = launch.kernel.artifact
    words, types = [], []
    for argument in artifact.arguments:
        if argument.role == "int":
            words.append(launch.numbers[argument.name])
            types.append(ctypes.c_int32)
        elif argument.name in pointers:
            _check_aligned(artifact, argument, pointers[argument.name])
            words.append(pointers[argument.name])
            types.append(ctypes.c_void_p)
        else:
            raise ValueError(f"{artifact.name}: no address for argument '{argument.name}'")
    arguments = tuple(words), tuple(types)
    sizes = *launch.grid, artifact.block, 1, 1, artifact.shared_bytes
    detail = f"with grid {list(launch.grid)}"
    function = launch.kernel.function
    call("cuLaunchKernel", function, *sizes, stream, arguments, 0, detail=detail, about=_about(artifact))


def output_shape(
    artifact: Artifact, name: str, shapes: dict[str, tuple[int, ...]], values: dict[str, int] | None = None
) -> tuple[int, ...]:
    """Dimensions of an output or of the scratch, given those of the inputs."""
    argument = {item.name: item for item in artifact.arguments}[name]
    return tuple(evaluate(size, shapes, values) for size in argument.shape)


def scratch_bytes(
    artifact: Artifact, shapes: dict[str, tuple[int, ...]], values: dict[str, int] | None = None
) -> int:
    """Global memory that a launch needs besides its tensors: 0 for a kernel without scratch."""
    if all(argument.role != "scratch" for argument in artifact.arguments):
        return 0
    (words,) = output_shape(artifact, "scratch", shapes, values)
    return words * SCRATCH_WORD_BYTES


def _check_aligned(artifact: Artifact, argument: Argument, word: int) -> None:
    if argument.aligned and word % 16:
        raise ValueError(f"{artifact.name}: {argument.name} is {word}, which is no multiple of 16")


def _about(artifact: Artifact) -> str:
    return f"kernel {artifact.name} ({artifact.architecture}): "

"""Which compiled kernels the custom nodes run as, for one architecture, dtype and head_dim. No torch.

Launched by us, a node is the fastest kernel there is; inside a TensorRT engine, one of `read_plugin_kernels`.
"""

from pathlib import Path

from flashvsr_trt.errors import EngineError
from flashvsr_trt.kernels.catalogue import DTYPES, HEAD_DIMS, kernel_specs
from flashvsr_trt.kernels.compile import build_kernels, source_hash
from flashvsr_trt.kernels.manifest import Artifact, find_artifact, read_kernel_file, read_manifest
from flashvsr_trt.kernels.tuning import ARCHITECTURES
from flashvsr_trt.plugins.sparse_attention import OPERATORS


def operator_kernels(architecture: str, precision: str, head_dim: int) -> dict[str, str]:
    """Operator name -> name of the kernel that computes it where the launcher is ours.

    Args:
        architecture: "sm_89" and the like.
        precision: "bf16" or "fp16", of the attention.
        head_dim: channels of a head.

    Raises:
        EngineError: no kernels are made for one of these; says for which there are.
    """
    if architecture not in ARCHITECTURES:
        raise EngineError(
            f"the sparse presets' kernels are made for {', '.join(ARCHITECTURES)}, and not {architecture}; "
            "the full-attn presets need none"
        )
    if precision not in DTYPES:
        raise EngineError(
            f"the sparse presets' kernels are made for {', '.join(DTYPES)}, and not {precision}; export with "
            f"--precision {DTYPES[0]}"
        )
    if head_dim not in HEAD_DIMS:
        raise EngineError(
            f"the sparse presets' kernels are made for heads of {', '.join(map(str, HEAD_DIMS))} channels, "
            f"and not {head_dim}"
        )
    return {
        operator: names[0] for operator, names in _kernel_names(architecture, precision, head_dim).items()
    }


def kernel_hashes(architecture: str, precision: str, head_dim: int) -> dict[str, str]:
    """Kernel name -> hash of its sources, for what `compile_operator_kernels` makes. Raises EngineError."""
    operator_kernels(architecture, precision, head_dim)
    specs = kernel_specs(architecture, (precision,), (head_dim,))
    return {spec.name: source_hash(spec, architecture) for spec in specs}


def compile_operator_kernels(
    architecture: str, precision: str, head_dim: int, directory: Path
) -> list[Artifact]:
    """Compile them into a directory of their own; what is there and unchanged is kept. Needs Triton, no GPU.

    Raises:
        EngineError: no kernels are made for one of the arguments.
        MissingDependencyError: Triton is not installed.
    """
    operator_kernels(architecture, precision, head_dim)
    return build_kernels((architecture,), directory, (precision,), head_dims=(head_dim,))


def read_operator_kernels(
    architecture: str, precision: str, head_dim: int, directory: Path
) -> dict[str, Artifact]:
    """Operator name -> its compiled kernel, of a directory that `compile_operator_kernels` made.

    Raises:
        EngineError: no kernels are made for one of the arguments.
        UsageError: the directory has no manifest of kernels, none for these, or a file was changed.
    """
    artifacts = read_manifest(directory)
    return {
        operator: _whole(find_artifact(artifacts, name, architecture), directory)
        for operator, name in operator_kernels(architecture, precision, head_dim).items()
    }


def read_plugin_kernels(
    architecture: str, precision: str, head_dim: int, directory: Path, shared_bytes: int
) -> dict[str, tuple[Artifact, ...]]:
    """Operator name -> those kernels of `compile_operator_kernels` that a plugin may run; there may be none.

    Args:
        shared_bytes: most dynamic shared memory that they may take.

    Raises:
        EngineError, UsageError: as `read_operator_kernels`.
    """
    operator_kernels(architecture, precision, head_dim)
    artifacts = read_manifest(directory)
    found = {}
    for operator, names in _kernel_names(architecture, precision, head_dim).items():
        kernels = [_whole(find_artifact(artifacts, name, architecture), directory) for name in names]
        found[operator] = tuple(kernel for kernel in kernels if kernel.shared_bytes <= shared_bytes)
    return found


def _kernel_names(architecture: str, precision: str, head_dim: int) -> dict[str, list[str]]:
    """Operator name -> names of its kernels, the fastest first."""
    specs = sorted(kernel_specs(architecture, (precision,), (head_dim,)), key=lambda spec: spec.small)
    return {item.name: [spec.name for spec in specs if spec.kernel == item.name] for item in OPERATORS}


def _whole(artifact: Artifact, directory: Path) -> Artifact:
    for file in artifact.files:
        read_kernel_file(directory, file)
    return artifact

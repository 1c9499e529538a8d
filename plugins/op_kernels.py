"""Which compiled kernels the custom nodes run as, for one architecture, dtype and head_dim. No torch."""

import math
from dataclasses import dataclass
from pathlib import Path

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.errors import EngineError
from flashvsr_trt.kernels.catalogue import DTYPES, HEAD_DIMS, KernelSpec, kernel_specs
from flashvsr_trt.kernels.compile import build_kernels, source_hash
from flashvsr_trt.kernels.manifest import Artifact, find_artifact, read_kernel_file, read_manifest
from flashvsr_trt.kernels.tuning import ARCHITECTURES
from flashvsr_trt.plugins.sparse_attention import OPERATORS


@dataclass(frozen=True)
class OperatorKernels:
    """The kernels of all custom nodes that one network runs on one kind of GPU.

    Attributes:
        architecture: "sm_89" and the like.
        precision: "bf16" or "fp16", of the attention.
        head_dim: channels of a head.

    Raises:
        EngineError: no kernels are made for one of these; says for which there are.
    """

    architecture: str
    precision: str
    head_dim: int

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise EngineError(
                f"the sparse presets' kernels are made for {', '.join(ARCHITECTURES)}, and not "
                f"{self.architecture}; the full-attn presets need none"
            )
        if self.precision not in DTYPES:
            raise EngineError(
                f"the sparse presets' kernels are made for {', '.join(DTYPES)}, and not {self.precision}; "
                f"export with --precision {DTYPES[0]}"
            )
        if self.head_dim not in HEAD_DIMS:
            raise EngineError(
                f"the sparse presets' kernels are made for heads of {', '.join(map(str, HEAD_DIMS))} "
                f"channels, and not {self.head_dim}"
            )

    @classmethod
    def of(cls, bundle: Bundle, architecture: str) -> "OperatorKernels":
        """Those that a bundle's nodes run as."""
        return cls(architecture, bundle.precision, bundle.stream.preset.network.dit.head_dim)

    @property
    def specs(self) -> list[KernelSpec]:
        """What they are compiled from, the fastest of each operator first."""
        specs = kernel_specs(self.architecture, (self.precision,), (self.head_dim,))
        return sorted(specs, key=lambda spec: spec.small)

    def hashes(self) -> dict[str, str]:
        """Kernel name -> hash of its sources."""
        return {spec.name: source_hash(spec, self.architecture) for spec in self.specs}

    def compile(self, directory: Path) -> list[Artifact]:
        """Compile them into a directory of their own; what is there and unchanged is kept. Needs no GPU.

        Raises:
            MissingDependencyError: Triton is not installed.
        """
        return build_kernels((self.architecture,), directory, (self.precision,), head_dims=(self.head_dim,))

    def read(self, directory: Path, shared_bytes: float = math.inf) -> dict[str, tuple[Artifact, ...]]:
        """Operator name -> its kernels of a directory that `compile` made, the fastest first.

        Args:
            shared_bytes: most dynamic shared memory that they may take; within a bound there may be none.

        Raises:
            UsageError: the directory has no manifest of kernels, none for these, or a file was changed.
        """
        artifacts, found = read_manifest(directory), {}
        for operator in OPERATORS:
            names = [spec.name for spec in self.specs if spec.kernel == operator.name]
            kernels = [find_artifact(artifacts, name, self.architecture) for name in names]
            for file in (file for kernel in kernels for file in kernel.files):
                read_kernel_file(directory, file)
            found[operator.name] = tuple(kernel for kernel in kernels if kernel.shared_bytes <= shared_bytes)
        return found

"""The manifest that `flashvsr-trt kernels build` writes beside the kernels. No torch, no Triton."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.folder import (
    BadFileError,
    NamedFile,
    check_names,
    check_size,
    read_checked,
)
from flashvsr_trt.files.manifest_reader import BadManifestError, dump_manifest, manifest_errors, record_of
from flashvsr_trt.files.manifest_reader import read_manifest as read_content
from flashvsr_trt.files.new import write_text

MANIFEST = "manifest.json"
FORMAT = "flashvsr-trt kernels"
FORMAT_VERSION = 1

ROLES = ("input", "int", "output", "scratch")

EXPRESSION_CHARACTERS = 600
"""The longest expression that is evaluated."""

_EXPRESSION_LIMIT = 2**63

SCRATCH_WORD_BYTES = 4
"""Scratch is a tensor of int32."""


@dataclass(frozen=True)
class Argument:
    """One kernel argument, in launch order: inputs, ints, outputs.

    Attributes:
        role: "input", "int", "output", or "scratch": an output whose content means nothing afterwards.
        type: Triton's spelling: "*bf16", "*fp32", "*i32", "*i1", "i32".
        shape: an output's or the scratch's dimensions, as expressions (see `evaluate`).
        value: an int's value for contiguous tensors, as an expression.
        aligned: the pointer is aligned to 16 bytes, or the int is a multiple of 16.
    """

    name: str
    role: str
    type: str
    shape: tuple[str, ...] = ()
    value: str = ""
    aligned: bool = False


@dataclass(frozen=True)
class Artifact:
    """One kernel compiled for one architecture.

    Attributes:
        name: kernel, dtype and head_dim: "block_sparse_attention_bf16_d128".
        kernel: the operation's name, without the domain.
        entry: the symbol in PTX and cubin.
        ptx, cubin: files beside the manifest.
        grid: programs along x, y and z, as expressions (see `evaluate`).
        block: threads of a program.
        shared_bytes: dynamic shared memory of a program.
        cluster: programs of a cluster.
        registers: per thread, as allocated at launch.
        spill_bytes: stored and loaded, by ptxas.
        hash: of source, constants, arguments and Triton version: what the files were built from.
    """

    name: str
    kernel: str
    architecture: str
    entry: str
    ptx: NamedFile
    cubin: NamedFile
    arguments: tuple[Argument, ...]
    constants: dict[str, bool | int | float | str]
    grid: tuple[str, str, str]
    block: int
    shared_bytes: int
    cluster: int
    registers: int
    spill_bytes: int
    triton: str
    hash: str

    @property
    def files(self) -> tuple[NamedFile, NamedFile]:
        return self.ptx, self.cubin


def write_manifest(directory: Path, artifacts: list[Artifact]) -> Path:
    """Writes `manifest.json`; it appears complete or not at all."""
    path = directory / MANIFEST
    kernels = [asdict(artifact) for artifact in artifacts]
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "kernels": kernels}
    write_text(path, dump_manifest(content), overwrite=True)
    return path


def read_manifest(directory: Path, files: bool = True) -> list[Artifact]:
    """All kernels of a build directory; with `files`, these are there and have their sizes.

    Raises:
        UsageError: there is no manifest, it is damaged, or files are missing or truncated.
    """
    remedy = f"make one with: flashvsr-trt kernels build -o {directory}"
    content = read_content(directory, MANIFEST, (FORMAT, FORMAT_VERSION), UsageError, remedy)
    with manifest_errors(directory / MANIFEST, UsageError, remedy):
        artifacts = record_of(tuple[Artifact, ...], content.get("kernels"), "kernels")
        named = [file for artifact in artifacts for file in artifact.files]
        check_names((file.name for file in named), reserved=(MANIFEST,))
        for artifact in artifacts:
            _check_artifact(artifact)
        if len({(artifact.name, artifact.architecture) for artifact in artifacts}) < len(artifacts):
            raise BadManifestError("a kernel is there twice")
        for file in named if files else ():
            check_size(directory, file)
    return list(artifacts)


def check_kernels(directory: Path) -> list[Artifact]:
    """All kernels of a build directory, once every byte of their files is checked. Raises UsageError."""
    artifacts = read_manifest(directory)
    for file in (file for artifact in artifacts for file in artifact.files):
        read_kernel_file(directory, file)
    return artifacts


def read_kernel_file(directory: Path, file: NamedFile) -> bytes:
    """The bytes of a PTX or cubin, which are those that were written. Raises UsageError."""
    try:
        return read_checked(directory, file)
    except BadFileError as error:
        raise UsageError(
            f"{error}: make the kernels again with: flashvsr-trt kernels build -o {directory}"
        ) from error


def _check_artifact(artifact: Artifact) -> None:
    """What a launch takes as it is: no driver is asked for more than there can be."""
    bounds = {
        "block": (artifact.block, 1, 1024),
        "shared_bytes": (artifact.shared_bytes, 0, 1 << 20),
        "cluster": (artifact.cluster, 1, 16),
    }
    for name, (value, least, most) in bounds.items():
        if not least <= value <= most:
            raise BadManifestError(f"{name} of {artifact.name!r:.60} is {value}, and not {least} to {most}")
    expressions = [*artifact.grid, *(argument.value for argument in artifact.arguments)]
    expressions += [size for argument in artifact.arguments for size in argument.shape]
    if any(len(expression) > EXPRESSION_CHARACTERS for expression in expressions):
        raise BadManifestError(
            f"an expression of {artifact.name!r:.60} is longer than {EXPRESSION_CHARACTERS}"
        )
    if any(argument.role not in ROLES for argument in artifact.arguments):
        raise BadManifestError(f"an argument of {artifact.name!r:.60} is none of {', '.join(ROLES)}")


def find_artifact(artifacts: list[Artifact], name: str, architecture: str) -> Artifact:
    """The kernel of that name for that architecture. Raises UsageError listing what there is."""
    for artifact in artifacts:
        if (artifact.name, artifact.architecture) == (name, architecture):
            return artifact
    known = ", ".join(f"{artifact.name} ({artifact.architecture})" for artifact in artifacts)
    raise UsageError(f"no kernel {name} for {architecture}; built are: {known or 'none'}")


_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def evaluate(
    expression: str,
    shapes: Mapping[str, Sequence[Any]],
    parameters: Mapping[str, Any] | None = None,
    number: Callable[[int], Any] = int,
) -> Any:
    """The value of a size expression: `+ - * //` over numbers, `input[dimension]` and named parameters.

    Args:
        shapes: dimensions of each input. Symbolic dimensions work where they support the operators.
        parameters: values that no shape tells, like `top_k`.
        number: makes a symbolic dimension of an integer, where the others are symbolic.

    Raises:
        ValueError: the expression holds something else, or a name that was not given.
    """

    def value(node: ast.expr):
        match node:
            case ast.Constant(value=int() as constant):
                return number(constant)
            case ast.Name(id=name) if parameters and name in parameters:
                return parameters[name]
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as axis)) if (
                name in shapes
            ):
                return shapes[name][axis]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _bounded(_OPERATORS[type(op)](value(left), value(right)), expression)
        raise ValueError(f"'{ast.unparse(node)}' in '{expression}' is unknown; given are {sorted(shapes)}")

    if len(expression) > EXPRESSION_CHARACTERS:
        raise ValueError(f"an expression of {len(expression)} characters is too long")
    try:
        return value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ArithmeticError, IndexError) as error:
        raise ValueError(f"'{expression}' has no value: {error}") from error


def _bounded(number: Any, expression: str) -> Any:
    """Symbolic dimensions are not numbers yet."""
    if isinstance(number, int) and abs(number) >= _EXPRESSION_LIMIT:
        raise ValueError(f"'{expression}' is too large")
    return number

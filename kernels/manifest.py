"""The manifest that `flashvsr-trt kernels build` writes beside the kernels. No torch, no Triton."""

import ast
import json
import operator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flashvsr_trt.errors import UsageError
from flashvsr_trt.files import write_text

MANIFEST = "manifest.json"

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
        ptx, cubin: file names beside the manifest.
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
    ptx: str
    cubin: str
    arguments: tuple[Argument, ...]
    constants: dict[str, int | float | str]
    grid: tuple[str, str, str]
    block: int
    shared_bytes: int
    cluster: int
    registers: int
    spill_bytes: int
    triton: str
    hash: str


def write_manifest(directory: Path, artifacts: list[Artifact]) -> Path:
    """Writes `manifest.json`; it appears complete or not at all."""
    path = directory / MANIFEST
    text = json.dumps({"kernels": [asdict(artifact) for artifact in artifacts]}, indent=1) + "\n"
    write_text(path, text, overwrite=True)
    return path


def read_manifest(directory: Path) -> list[Artifact]:
    """All kernels of a build directory. Raises UsageError where there is no readable manifest."""
    path = directory / MANIFEST
    try:
        entries = json.loads(path.read_text())["kernels"]
        return [_artifact(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a kernel manifest ({error}); "
            f"make one with: flashvsr-trt kernels build -o {directory}"
        ) from error


def _artifact(entry: dict) -> Artifact:
    arguments = tuple(Argument(**{**item, "shape": tuple(item["shape"])}) for item in entry["arguments"])
    return replace(Artifact(**entry), arguments=arguments, grid=tuple(entry["grid"]))


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


def evaluate(expression: str, shapes: dict, parameters: dict | None = None):
    """The value of a size expression: `+ - * //` over numbers, `input[dimension]` and named parameters.

    Args:
        shapes: dimensions of each input. Symbolic dimensions work where they support the operators.
        parameters: values that no shape tells, like `top_k`.

    Raises:
        ValueError: the expression holds something else, or a name that was not given.
    """

    def value(node: ast.expr):
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id=name) if name in (parameters or {}):
                return parameters[name]
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as axis)) if (
                name in shapes
            ):
                return shapes[name][axis]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
        raise ValueError(f"'{ast.unparse(node)}' in '{expression}' is unknown; given are {sorted(shapes)}")

    return value(ast.parse(expression, mode="eval").body)

"""The ways in which a TensorRT plugin can run its node: TensorRT times them, and keeps the fastest.

Each is a compiled kernel, which is checked before an engine is made of it. TensorRT hands a kernel its
input pointers, the integers the plugin chose, then its output pointers, and nothing else; a mistake there is
not an error but a wrong picture.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from flashvsr_trt.errors import EngineError, UsageError
from flashvsr_trt.kernels.manifest import ROLES, Argument, Artifact, evaluate, read_kernel_file
from flashvsr_trt.kernels.ptx import add_parameters, read_signature
from flashvsr_trt.kernels.tuning import SHARED_LIMIT
from flashvsr_trt.plugins.sparse_attention import Operator, Port

POINTER_DTYPES = {
    "*fp32": "float",
    "*fp16": "float16",
    "*bf16": "bfloat16",
    "*i32": "int32",
    "*i1": "bool",
}
"""Types of a kernel's pointers as ONNX names the dtype that they point to."""

GENERIC_DTYPES = ("float16", "bfloat16")
"""What a port of dtype T may be on a GPU."""

_MOST_THREADS = 1024

_ANY_SIZE = 256
"""Stands for every dimension where only an expression's names are checked."""


@dataclass(frozen=True)
class Tactic:
    """One way to run a node: an entry of the tuning table, compiled. Tactics are numbered from 1."""

    artifact: Artifact
    ptx: str


def read_tactics(operator: Operator, artifacts: tuple[Artifact, ...], directory: Path) -> tuple[Tactic, ...]:
    """An operator's compiled kernels with their PTX, each checked against the node.

    TensorRT hands all tactics of a plugin the same tensors. Where one has scratch, the others take its
    address as well, and do not read it.

    Raises:
        EngineError: a kernel is not the one that the node calls, or its PTX is missing, or they differ in
            their outputs, or there is none.
    """
    tactics = [Tactic(artifact, _checked_ptx(operator, artifact, directory)) for artifact in artifacts]
    if len({_types(artifact) for artifact in artifacts}) != 1:
        raise EngineError(f"the tactics of {operator.name} must be some, with the same outputs")
    scratch = {item for artifact in artifacts for item in artifact.arguments if item.role == "scratch"}
    if len(scratch) > 1:
        raise EngineError(f"the tactics of {operator.name} must have the same scratch, if they have any")
    return tuple(_with_scratch(tactic, scratch) for tactic in tactics)


def _with_scratch(tactic: Tactic, scratch: set[Argument]) -> Tactic:
    missing = tuple(scratch - set(tactic.artifact.arguments))
    return replace(
        tactic,
        artifact=replace(tactic.artifact, arguments=tactic.artifact.arguments + missing),
        ptx=add_parameters(tactic.ptx, len(missing)),
    )


def _checked_ptx(operator: Operator, artifact: Artifact, directory: Path) -> str:
    try:
        ptx = read_kernel_file(directory, artifact.ptx).decode()
    except (UsageError, UnicodeDecodeError) as error:
        raise EngineError(f"{error}: compile the kernels again") from error
    check_contract(operator, artifact, ptx)
    return ptx


def _types(artifact: Artifact) -> tuple[str, ...]:
    """Of inputs and outputs, which one set of tensors must serve."""
    return tuple(item.type for item in artifact.arguments if item.role in ("input", "output"))


def check_contract(operator: Operator, artifact: Artifact, ptx: str) -> None:
    """Compare a compiled kernel with the node's declaration and with what a plugin can launch.

    Raises:
        EngineError: names the kernel, and what of it differs from what.
    """
    if artifact.kernel != operator.name:
        raise _mismatch(artifact, f"it computes {artifact.kernel}, and the node is {operator.name}")
    roles = [argument.role for argument in artifact.arguments]
    if roles != sorted(roles, key=ROLES.index) or roles.count("scratch") > 1:
        raise _mismatch(artifact, f"its arguments are in the order {roles}; a plugin's are {list(ROLES)}")
    _check_ports(artifact, "input", operator.inputs)
    _check_ports(artifact, "output", operator.outputs)
    _check_scratch(artifact)
    _check_generic_dtype(operator, artifact)
    _check_expressions(operator, artifact)
    _check_launch(artifact)
    _check_ptx(artifact, ptx)


def _check_ports(artifact: Artifact, role: str, ports: tuple[Port, ...]) -> None:
    arguments = [argument for argument in artifact.arguments if argument.role == role]
    names = [argument.name for argument in arguments]
    if names != [port.name for port in ports]:
        wanted = ", ".join(port.name for port in ports)
        raise _mismatch(artifact, f"its {role}s are {', '.join(names)}; the node's are {wanted}")
    for argument, port in zip(arguments, ports, strict=True):
        dtype = POINTER_DTYPES.get(argument.type)
        if dtype is None or port.dtype not in ("T", dtype):
            raise _mismatch(
                artifact, f"its {role} {port.name} is {argument.type}; the node's is {port.dtype}"
            )
        if role == "output" and len(argument.shape) != len(port.axes):
            axes = ", ".join(port.axes)
            raise _mismatch(artifact, f"its {port.name} is shaped {argument.shape}; the node's is ({axes})")


def _check_scratch(artifact: Artifact) -> None:
    """int32, because TensorRT takes an int8 tensor as a quantised one."""
    for argument in artifact.arguments:
        if argument.role == "scratch" and argument.type != "*i32":
            raise _mismatch(artifact, f"its scratch is {argument.type}; a plugin's is *i32")


def _check_generic_dtype(operator: Operator, artifact: Artifact) -> None:
    generic = {port.name for port in operator.inputs + operator.outputs if port.dtype == "T"}
    found = {item.name: POINTER_DTYPES[item.type] for item in artifact.arguments if item.name in generic}
    if len(set(found.values())) > 1 or not set(found.values()) <= set(GENERIC_DTYPES):
        raise _mismatch(artifact, f"its tensors of one dtype are {found}; all are one of {GENERIC_DTYPES}")


def _check_expressions(operator: Operator, artifact: Artifact) -> None:
    """Every size must follow from the inputs' shapes and the node's attributes."""
    shapes = {port.name: (_ANY_SIZE,) * len(port.axes) for port in operator.inputs}
    attributes = dict.fromkeys(operator.attributes, _ANY_SIZE)
    named = {f"grid {axis}": size for axis, size in zip("xyz", artifact.grid, strict=True)}
    for argument in artifact.arguments:
        if argument.role == "int":
            if argument.type != "i32":
                raise _mismatch(artifact, f"its {argument.name} is {argument.type}; a plugin passes i32 only")
            named[argument.name] = argument.value
        named |= {f"{argument.name}[{axis}]": size for axis, size in enumerate(argument.shape)}
    for name, expression in named.items():
        try:
            evaluate(expression, shapes, attributes)
        except ValueError as error:
            raise _mismatch(artifact, f"its {name} does not follow from the node: {error}") from error


def _check_launch(artifact: Artifact) -> None:
    limit = SHARED_LIMIT[artifact.architecture]
    if not 0 <= artifact.shared_bytes <= limit:
        raise _mismatch(artifact, f"it takes {artifact.shared_bytes} bytes of shared memory of {limit}")
    if artifact.cluster != 1:
        raise _mismatch(artifact, f"it runs in clusters of {artifact.cluster}; a plugin launches none")
    if not 0 < artifact.block <= _MOST_THREADS:
        raise _mismatch(artifact, f"a program has {artifact.block} threads, and at most {_MOST_THREADS} run")


def _check_ptx(artifact: Artifact, ptx: str) -> None:
    entry, parameters = read_signature(ptx)
    found = [kind for kind, _ in parameters]
    wanted = ["u32" if argument.role == "int" else "u64" for argument in artifact.arguments]
    if entry != artifact.entry:
        raise _mismatch(artifact, f"its PTX holds {entry}, and its manifest names {artifact.entry}")
    if found != wanted:
        raise _mismatch(artifact, f"its PTX takes {found}, and its manifest declares {wanted}")


def _mismatch(artifact: Artifact, what: str) -> EngineError:
    return EngineError(f"kernel {artifact.name} ({artifact.architecture}) is not the node's: {what}")

"""The ways in which a TensorRT plugin can run its node: TensorRT times them, and keeps the fastest."""

from dataclasses import dataclass, replace
from pathlib import Path

from flashvsr_trt.errors import EngineError, UsageError
from flashvsr_trt.kernels.manifest import Argument, Artifact, read_kernel_file
from flashvsr_trt.kernels.ptx import add_parameters
from flashvsr_trt.plugins.kernel_contract import check_contract
from flashvsr_trt.plugins.sparse_attention import Operator


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

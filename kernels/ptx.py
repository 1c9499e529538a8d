"""PTX text: reading a kernel's signature, dropping parameters that nothing reads, and assembling it."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(r"\.visible \.entry (\w+)\(\n(.*?)\n\)", re.DOTALL)
_PARAMETER = re.compile(r"\.param \.(\w+).*?(\w+),?$", re.MULTILINE)


@dataclass(frozen=True)
class Assembled:
    """A cubin, and what ptxas says of it."""

    cubin: bytes
    registers: int
    spill_bytes: int
    serialised: bool
    """Whether its asynchronous products wait for each other: then half the rate of sm_90 is gone."""


def read_signature(ptx: str) -> tuple[str, list[tuple[str, str]]]:
    """Name of the only kernel, and (PTX type, parameter name) in order: ("u64", "copy_param_0").

    Raises:
        ValueError: the text does not hold exactly one kernel.
    """
    name, body = _entry(ptx).groups()
    return name, _PARAMETER.findall(body)


def _entry(ptx: str) -> re.Match[str]:
    entries = list(_ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise ValueError(f"the PTX holds {len(entries)} kernels, not one")
    return entries[0]


def drop_parameters(ptx: str, keep: int) -> str:
    """The same PTX with only the first `keep` parameters.

    Raises:
        ValueError: a parameter past them is read by the kernel, or there are fewer.
    """
    name, parameters = read_signature(ptx)
    if len(parameters) < keep:
        raise ValueError(f"kernel {name} has {len(parameters)} parameters, fewer than {keep}")
    for _, parameter in parameters[keep:]:
        if len(re.findall(rf"\b{parameter}\b", ptx)) != 1:
            raise ValueError(f"kernel {name} reads {parameter}, which was to be dropped")
    head, body = _entry(ptx).span(2)
    lines = ptx[head:body].splitlines()[:keep]
    lines[-1] = lines[-1].rstrip(",")
    return ptx[:head] + "\n".join(lines) + ptx[body:]


def add_parameters(ptx: str, count: int) -> str:
    """The same PTX with `count` pointers more at the end, which nothing reads.

    Raises:
        ValueError: the text does not hold exactly one kernel.
    """
    name, parameters = read_signature(ptx)
    _, end = _entry(ptx).span(2)
    first = len(parameters)
    added = "".join(f",\n\t.param .u64 {name}_param_{first + position}" for position in range(count))
    return ptx[:end] + added + ptx[end:]


def assemble(ptx: str, target: str, ptxas: str) -> Assembled:
    """Runs ptxas for one target, such as "sm_90a".

    Raises:
        ValueError: ptxas refuses the text; the message is its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [ptxas, "-v", f"--gpu-name={target}", str(source), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"ptxas refuses the kernel for {target}: {done.stderr.strip()}")
        spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill", done.stderr))
        registers = sum(int(number) for number in re.findall(r"Used (\d+) registers", done.stderr))
        serialised = "wgmma.mma_async instructions are serialized" in done.stderr
        return Assembled(output.read_bytes(), registers, spilled, serialised)

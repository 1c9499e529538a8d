"""Launch settings of every kernel: data in `tuning.json`, remade by `python -m bench.tune_kernels`."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TABLE = Path(__file__).with_name("tuning.json")

FRAME_BY_FRAME = Path(__file__).with_name("frame_by_frame.json")
"""Sizes that cuDNN convolves faster frame by frame, by architecture (`python -m bench.projector --all`)."""

SHARED_LIMIT = {
    "sm_80": 166_912,
    "sm_86": 101_376,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "sm_120": 101_376,
}
"""Largest dynamic shared memory of a program in bytes (CUDA C++ Programming Guide, compute capabilities)."""

PLAIN_SHARED_LIMIT = 49_152
"""Largest dynamic shared memory of a launch where nobody has raised the function's limit, on any of them."""

ARCHITECTURES = tuple(SHARED_LIMIT)
"""Architectures that kernels are compiled for ahead of time."""


@dataclass(frozen=True)
class Setting:
    """How one kernel is compiled and launched on one architecture.

    `constants` are the kernel's compile-time sizes; `implementation` names the kernel where there are two.
    """

    num_warps: int
    num_stages: int = 1
    constants: dict[str, int] = field(default_factory=dict)
    implementation: str = "portable"


@functools.cache
def _table() -> dict:
    return json.loads(TABLE.read_text())


def setting_for(kernel: str, architecture: str, head_dim: int | None = None) -> Setting:
    """The table's entry. An architecture that is not listed takes the nearest lower one of the table.

    Args:
        kernel: a key of the table.
        architecture: "sm_90" and the like.
        head_dim: for kernels whose entry depends on it.

    Raises:
        ValueError: no such kernel or head_dim, or an architecture below all of the table.
    """
    table = _table()
    if kernel not in table:
        raise ValueError(f"no tuning for kernel '{kernel}'; the table has: {', '.join(table)}")
    entries = table[kernel]
    wanted = capability_number(architecture)
    known = [name for name in entries if capability_number(name) <= wanted]
    if not known:
        raise ValueError(
            f"{architecture} is below every architecture of the tuning table: {', '.join(entries)}"
        )
    entry = entries[max(known, key=capability_number)]
    if head_dim is not None:
        if str(head_dim) not in entry:
            raise ValueError(f"{kernel} has no tuning for head_dim {head_dim}; it has: {', '.join(entry)}")
        entry = entry[str(head_dim)]
    return Setting(**entry)


def frame_by_frame(architecture: str, shape: Sequence[int]) -> bool:
    """Whether frames [T, C, h, w] are convolved one by one: at sizes measured on this very architecture."""
    return convolution_key(shape) in _slow_convolutions().get(architecture, ())


def convolution_key(shape: Sequence[int]) -> str:
    """ "2x8192x50x82" for frames of that shape."""
    return "x".join(map(str, shape))


@functools.cache
def _slow_convolutions() -> dict[str, list[str]]:
    return json.loads(FRAME_BY_FRAME.read_text())


def capability_number(architecture: str) -> int:
    """90 for "sm_90". Raises ValueError on another form."""
    prefix, _, number = architecture.partition("_")
    if prefix != "sm" or not number.isdigit():
        raise ValueError(f"'{architecture}' is not an architecture; write it like sm_90")
    return int(number)

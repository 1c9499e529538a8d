"""Which kernels are compiled ahead of time, with their arguments and launch sizes. No torch, no Triton."""

import math
from dataclasses import dataclass

from flashvsr_trt.kernels.manifest import Argument
from flashvsr_trt.kernels.tuning import Setting, setting_for

DTYPES = ("bf16", "fp16")

HEAD_DIMS = (32, 128)

SMALL_HEAD_DIMS = (128,)
"""Whose attention has a second form, within PLAIN_SHARED_LIMIT; the first form of the others is within it."""

BLOCK = 128
"""Tokens of a block, which is one attention window."""

MAX_SLOTS = 16
"""Ring slots that block selection reads at once; the presets have 4."""


@dataclass(frozen=True)
class KernelSpec:
    """One kernel before compilation: where its source is, and everything that is fixed at compile time.

    `small` is the second form of a kernel, for launchers that do not raise the limit of shared memory.
    """

    name: str
    kernel: str
    module: str
    function: str
    gluon: bool
    arguments: tuple[Argument, ...]
    constants: dict[str, int | float | str]
    grid: tuple[str, str, str]
    setting: Setting
    small: bool = False


def kernel_specs(
    architecture: str, dtypes: tuple[str, ...] = DTYPES, head_dims: tuple[int, ...] = HEAD_DIMS
) -> list[KernelSpec]:
    """Every kernel for one architecture: block selection, and attention per dtype, head_dim and form."""
    return [_select_blocks(architecture)] + [
        _attention(architecture, dtype, head_dim, small)
        for dtype in dtypes
        for head_dim in head_dims
        for small in ((False, True) if head_dim in SMALL_HEAD_DIMS else (False,))
    ]


def _pointer(name: str, role: str, kind: str, shape: tuple[str, ...] = ()) -> Argument:
    return Argument(name, role, kind, shape=shape, aligned=True)


def _number(name: str, value: str, aligned: bool = False) -> Argument:
    return Argument(name, "int", "i32", value=value, aligned=aligned)


def _select_blocks(architecture: str) -> KernelSpec:
    setting = setting_for("select_blocks", architecture)
    heads, units, windows = "probability[0]", "probability[1]", "probability[2]"
    rows = f"{units} * {windows}"
    return KernelSpec(
        name="select_blocks",
        kernel="select_blocks",
        module="flashvsr_trt.kernels.select_blocks_triton",
        function="select_blocks",
        gluon=False,
        arguments=(
            _pointer("probability", "input", "*fp32"),
            _pointer("slot_valid", "input", "*i1"),
            _number("windows", windows),
            _number("units", units),
            _number("slots", "slot_valid[0]"),
            _number("top_k", "top_k"),
            _pointer("index", "output", "*i32", (heads, rows, "probability[3]")),
            _pointer("count", "output", "*i32", (heads, rows)),
        ),
        constants={"MAX_SLOTS": MAX_SLOTS, "OWN": True, **setting.constants},
        grid=(f"{heads} * {units}", str(setting.constants["GROUPS"]), "1"),
        setting=setting,
    )


def _attention(architecture: str, dtype: str, head_dim: int, small: bool) -> KernelSpec:
    form = "_48k" if small else ""
    setting = setting_for(f"block_sparse_attention{form}", architecture, head_dim)
    hopper = setting.implementation == "hopper"
    tensor = f"*{dtype}"
    constants = {"HEAD_DIM": head_dim, "BLOCK": BLOCK, "SCALE": math.log2(math.e) / math.sqrt(head_dim)}
    constants["OWN"] = True
    if not hopper:
        constants["MULTIPLIED"] = dtype
    return KernelSpec(
        name=f"block_sparse_attention_{dtype}_d{head_dim}{form}",
        kernel="block_sparse_attention",
        module=f"flashvsr_trt.kernels.block_sparse_attention_{'hopper' if hopper else 'triton'}",
        function="block_sparse_attention_hopper" if hopper else "block_sparse_attention",
        gluon=hopper,
        arguments=(
            *(_pointer(name, "input", tensor) for name in ("q", "k", "v", "ring_k", "ring_v")),
            *(_pointer(name, "input", "*i32") for name in ("index", "count")),
            _number("ring_windows", f"ring_k[0] * ring_k[1] // {BLOCK}"),
            _number("q_stride", "q[1] * q[2]", aligned=True),
            _number("k_stride", "k[1] * k[2]", aligned=True),
            _number("v_stride", "v[1] * v[2]", aligned=True),
            _number("ring_stride", "ring_k[2] * ring_k[3]", aligned=True),
            _pointer("out", "output", tensor, ("q[0]", "q[1]", "q[2]")),
        ),
        constants=constants | setting.constants,
        grid=("count[1]", "count[0]", "1"),
        setting=setting,
        small=small,
    )

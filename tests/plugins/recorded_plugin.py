"""Stands for `tensorrt.plugin`, keeps what is registered, and calls it as TensorRT does.

Its symbolic dimensions take integers on the right only, as TensorRT's own do. The calls are those of
`tensorrt/plugin/_plugin_class.py`: attributes by keyword for a description, by position for the others.
"""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np


@dataclass(frozen=True)
class Dimension:
    """A symbolic integer that keeps the expression's value."""

    value: int

    def __add__(self, other):
        return Dimension(self.value + value_of(other))

    def __sub__(self, other):
        return Dimension(self.value - value_of(other))

    def __mul__(self, other):
        return Dimension(self.value * value_of(other))

    def __floordiv__(self, other):
        return Dimension(self.value // value_of(other))


def value_of(number) -> int:
    return number.value if isinstance(number, Dimension) else number


class DataType(Enum):
    FLOAT = "float"
    HALF = "float16"
    BF16 = "bfloat16"
    INT32 = "int32"
    BOOL = "bool"


class TensorDesc:
    def __init__(self, shape_expr, dtype=None):
        self.shape_expr, self.dtype = shape_expr, dtype


class KernelLaunchParams:
    """Takes the fields that TensorRT's has, and no other."""

    __slots__ = ("block_x", "block_y", "block_z", "grid_x", "grid_y", "grid_z", "shared_mem")


class SymExprs(list):
    def __init__(self, length):
        super().__init__([None] * length)


@dataclass(frozen=True)
class AutoTuneCombination:
    io_types: str
    layouts: str
    tactics: list[int]


@dataclass
class RecordedPlugin:
    """`tensorrt.plugin`, as far as the plugins use it."""

    registered: dict = field(default_factory=dict)
    ShapeExpr = Dimension
    SymInt32 = staticmethod(lambda number: Dimension(value_of(number)))
    TensorDesc = TensorDesc
    KernelLaunchParams = KernelLaunchParams
    SymExprs = SymExprs
    SymIntExprs = SymExprs
    AutoTuneCombination = AutoTuneCombination
    from_shape_expr = staticmethod(TensorDesc)

    def register(self, identity):
        return lambda function: self.registered.setdefault((identity, "describe"), function)

    def autotune(self, identity):
        return lambda function: self.registered.setdefault((identity, "tune"), function)

    def aot_impl(self, identity):
        return lambda function: self.registered.setdefault((identity, "implement"), function)


def attribute(number: int) -> np.ndarray:
    """An integer attribute of an ONNX node, as the parser makes a plugin's field of it."""
    return np.array([number], np.int32).astype(np.int64)


def described(functions, tensors, attributes):
    return functions.describe(*tensors, **attributes)


def tuned(functions, tensors, attributes, outputs):
    return functions.tune(*tensors, *attributes.values(), outputs)


def implemented(functions, tensors, attributes, outputs, tactic):
    return functions.implement(*tensors, *attributes.values(), outputs, tactic)

"""What only a TensorRT builder can make: symbolic dimensions, and where it is told a kernel's launch.

And a registry, for versions whose native one the stand-in libraries have not.

TensorRT's bindings declare these classes without a constructor. What they take, and what they refuse, is as
in `python/src/infer/pyPlugin.cpp` of TensorRT's open-source part; each dimension keeps its value besides.
"""

from types import ModuleType
from typing import Any


class ExpressionBuilder:
    """`IExprBuilder` for dimensions that are all known: it computes what TensorRT keeps as an expression."""

    def __init__(self, trt: ModuleType) -> None:
        class Dimension(trt.IDimensionExpr):
            def is_constant(self) -> bool:
                return True

            def get_constant_value(self) -> int:
                return self.value

            def is_size_tensor(self) -> bool:
                return False

        kinds = trt.DimensionOperation
        self._dimension = Dimension
        self._operations = {
            kinds.SUM: lambda a, b: a + b,
            kinds.PROD: lambda a, b: a * b,
            kinds.MAX: max,
            kinds.MIN: min,
            kinds.SUB: lambda a, b: a - b,
            kinds.EQUAL: lambda a, b: int(a == b),
            kinds.LESS: lambda a, b: int(a < b),
            kinds.FLOOR_DIV: lambda a, b: a // b,
            kinds.CEIL_DIV: lambda a, b: -(-a // b),
        }

    def constant(self, value: int) -> Any:
        if not isinstance(value, int):
            raise TypeError(f"constant(): incompatible function arguments: {value!r}")
        # The bindings have no constructor for it: the object is made without one.
        dimension = self._dimension.__new__(self._dimension)
        dimension.value = value
        return dimension

    def operation(self, kind: Any, first: Any, second: Any) -> Any:
        if kind not in self._operations or not all(isinstance(d, self._dimension) for d in (first, second)):
            raise TypeError(f"operation(): incompatible function arguments: {kind!r}, {first!r}, {second!r}")
        return self.constant(self._operations[kind](first.value, second.value))


class LaunchParameters:
    """`KernelLaunchParams` of the builder, whose fields take an `ISymExpr` each."""

    FIELDS = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")

    def __init__(self, trt: ModuleType) -> None:
        self.__dict__["_symbolic"] = trt.ISymExpr

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.FIELDS or not isinstance(value, self._symbolic):
            raise TypeError(f"{name} takes one ISymExpr, not {value!r}")
        self.__dict__[name] = value


class ExtraArguments:
    """`ISymExprs` of the builder: as many `ISymExpr` as `nbSymExprs` says."""

    def __init__(self, trt: ModuleType) -> None:
        self._symbolic = trt.ISymExpr
        self._held: list[Any] = []

    @property
    def nbSymExprs(self) -> int:  # noqa: N802
        return len(self._held)

    @nbSymExprs.setter
    def nbSymExprs(self, count: int) -> None:  # noqa: N802
        self._held = [None] * count

    def __setitem__(self, position: int, value: Any) -> None:
        if not isinstance(value, self._symbolic):
            raise TypeError(f"an extra argument is an ISymExpr, not {value!r}")
        self._held[position] = value

    def __iter__(self) -> Any:
        return iter(self._held)


class Registry:
    """`IPluginRegistry`, as far as it is used: creators by name, version and namespace, each once."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, plugin_namespace: str = "") -> bool:
        key = creator.name, creator.plugin_version, plugin_namespace
        return self.creators.setdefault(key, creator) is creator

    def get_creator(self, kind: str, version: str, plugin_namespace: str = "") -> Any:
        return self.creators.get((kind, version, plugin_namespace))

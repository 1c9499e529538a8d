"""TensorRT's symbolic dimensions with integers on either side: they themselves take one on the right only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """A symbolic expression. `constant` makes one of an integer; + - * // give another Size."""

    expression: Any
    constant: Callable[[int], Any]

    def __add__(self, other: "int | Size") -> "Size":
        return self._with(self.expression + self._expression(other))

    def __sub__(self, other: "int | Size") -> "Size":
        return self._with(self.expression - self._expression(other))

    def __mul__(self, other: "int | Size") -> "Size":
        return self._with(self.expression * self._expression(other))

    def __floordiv__(self, other: "int | Size") -> "Size":
        return self._with(self.expression // self._expression(other))

    def __radd__(self, other: int) -> "Size":
        return self._with(self.constant(other) + self.expression)

    def __rsub__(self, other: int) -> "Size":
        return self._with(self.constant(other) - self.expression)

    def __rmul__(self, other: int) -> "Size":
        return self._with(self.constant(other) * self.expression)

    def __rfloordiv__(self, other: int) -> "Size":
        return self._with(self.constant(other) // self.expression)

    def _with(self, expression: Any) -> "Size":
        return Size(expression, self.constant)

    @staticmethod
    def _expression(other: "int | Size") -> Any:
        return other.expression if isinstance(other, Size) else other


def unwrapped(size: "int | Size") -> Any:
    """What TensorRT takes: the symbolic expression, or the integer."""
    return size.expression if isinstance(size, Size) else size

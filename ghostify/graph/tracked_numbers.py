"""Numbers that a network computes from the sizes of its maps while it is recorded: plain numbers that know their node."""

import math
import operator
from collections.abc import Callable
from typing import Any

from torch import fx

Note = Callable[[Callable[..., Any], tuple[Any, ...], Any], Any]
"""Records a function that was called on numbers: the function, its arguments and its result; gives the result, tracked."""


class TrackedInt(int):
    """A whole number with the node that computes it. What is computed from it by arithmetic is tracked as well."""

    node: fx.Node
    note: Note

    def __deepcopy__(self, memo: dict[int, object]) -> int:
        return int(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


class TrackedFloat(float):
    """The same for fractions, such as quotients of sizes."""

    node: fx.Node
    note: Note

    def __deepcopy__(self, memo: dict[int, object]) -> float:
        return float(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (float(self),)


Tracked = (TrackedInt, TrackedFloat)


def tracked(value: Any, node: fx.Node, note: Note) -> Any:
    """A number that knows its node; of another kind of value the value itself."""
    if type(value) not in (int, float):
        return value
    number = TrackedInt(value) if type(value) is int else TrackedFloat(value)
    number.node, number.note = node, note
    return number


def plain(value: Any) -> Any:
    """A number without its node; of another kind of value the value itself."""
    if isinstance(value, TrackedInt):
        return int(value)
    return float(value) if isinstance(value, TrackedFloat) else value


def _binary(function: Callable[..., Any], swapped: bool) -> Callable[..., Any]:
    def compute(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        args = (other, self) if swapped else (self, other)
        return self.note(function, args, function(*map(plain, args)))

    return compute


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self: Any) -> Any:
        return self.note(function, (self,), function(plain(self)))

    return compute


for _cls in Tracked:
    for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow"):
        setattr(_cls, f"__{_name}__", _binary(getattr(operator, _name), swapped=False))
        setattr(_cls, f"__r{_name}__", _binary(getattr(operator, _name), swapped=True))
    _cls.__neg__ = _unary(operator.neg)  # type: ignore[method-assign]
    for _name, _function in (("ceil", math.ceil), ("floor", math.floor), ("trunc", math.trunc)):
        setattr(_cls, f"__{_name}__", _unary(_function))

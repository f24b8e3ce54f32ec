"""Checks of settings; each error is one sentence that repeats what was given."""

import numbers
from typing import Any

from .errors import ArgumentError, ArgumentTypeError


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def whole_number(name: str, value: Any, least: int) -> int:
    """``value``, an int or one of numpy's.

    Raises:
        ArgumentError, ArgumentTypeError: it is not, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ArgumentError(f"{name} must be at least {least}, not {value!r}")
    return int(value)

"""Targets: what a student may cost, and what a target came to."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..common.checks import check_choice
from ..errors import ArgumentError, ArgumentTypeError

METRICS = ("flops", "params", "latency")


@dataclass(frozen=True)
class Target:
    """What a student may cost.

    Attributes:
        metric: ``"flops"``, ``"params"`` or ``"latency"``.
        value: multiply-adds, parameters or seconds; or a share.
        share: whether ``value`` is a share of what the original costs.
    """

    metric: str
    value: float
    share: bool

    @classmethod
    def parse(cls, target: object) -> "Target":
        """From ``{"flops": 0.5}``, ``{"params": "5M"}``, ``{"latency": "12ms"}``.

        Raises:
            ArgumentError, ArgumentTypeError: another form; the message gives the right ones.
        """
        if not isinstance(target, Mapping):
            raise ArgumentTypeError(f'target must be of the form {{"flops": 0.5}}, not {target!r}')
        if len(target) != 1:
            raise ArgumentError(f"target must have one of {', '.join(map(repr, METRICS))}, not {len(target)}: {dict(target)!r}")
        metric, value = next(iter(target.items()))
        check_choice("target", metric, METRICS)
        number, has_unit = _number(value, _TIMES if metric == "latency" else _COUNTS)
        if has_unit and number == number:
            return cls(metric, number, share=False)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < math.inf:
            forms = "0.5, '12ms'" if metric == "latency" else "0.5, 2e9, '2G'"
            raise ArgumentError(f"target[{metric!r}] must be of a form such as {forms}, not {value!r}")
        if 1 <= number < _LEAST_COUNT or (metric == "latency" and number >= 1):
            other = "a time such as '12ms'" if metric == "latency" else f"a number of {metric} such as 2e9 or '2G'"
            raise ArgumentError(f"target[{metric!r}] must be a share below 1, or {other}, not {value!r}")
        return cls(metric, float(number), share=number < 1)


def _number(value: object, units: Mapping[str, float]) -> tuple[Any, bool]:
    """The number in a text such as ``"12ms"``, NaN where there is none, and whether it has a unit; other values unchanged."""
    if not isinstance(value, str):
        return value, False
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", value)
    if match is None:
        return math.nan, False
    try:
        return float(match[1]) * units[match[2]], bool(match[2])
    except (KeyError, ValueError):
        return math.nan, bool(match[2])


_LEAST_COUNT = 100  # what is smaller was meant to be a share


_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}


_TIMES = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Budget:
    """What a target came to.

    Attributes:
        metric: ``"flops"``, ``"params"`` or ``"latency"``.
        limit: what the student may cost: multiply-adds, parameters or seconds, as the other three.
        original: what the original costs.
        least: the least that is feasible, with the highest ratio everywhere.
        planned: what the student was planned to cost; no more than ``limit``.
    """

    metric: str
    limit: float
    original: float
    least: float
    planned: float

    def __str__(self) -> str:
        planned, limit, least, original = (
            amount(self.metric, v) for v in (self.planned, self.limit, self.least, self.original)
        )
        return f"{self.metric} {planned}, at most {limit} (feasible {least} to {original})"


def amount(metric: str, value: float) -> str:
    """1.5e9 as 1.5G, 0.012 seconds as 12ms."""
    if metric == "latency":
        return f"{value * 1e3:.3g}ms"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.0f}"


def out_of_reach(target: Target, limit: float, least: float, original: float, how: str) -> str:
    """The error's message for a target that a model can't keep to, with the range that is feasible.

    Args:
        target: as the user gave it.
        limit: what it comes to.
        least: what the model costs at least; ``how`` says with what.
        original: what the original costs.
        how: what the model costs so little with, in words.
    """
    texts = [amount(target.metric, value) for value in (limit, least, original)]
    share = f" ({target.value:g} of the original's)" if target.share else ""
    return (
        f"target {target.metric} {texts[0]}{share} is out of reach: {how} the model comes to between "
        f"{texts[1]} ({least / original:.3f}) and below {texts[2]} (1.000)"
    )

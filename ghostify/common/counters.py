"""The counters of FLOPs that a report can be asked for, by name."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from .costs import Costs, measure
from .fvcore_costs import measure_by_fvcore

Counter = Callable[[nn.Module, tuple[Any, ...], Sequence[str]], Costs]

COUNTERS: dict[str, Counter] = {"torch": measure, "fvcore": measure_by_fvcore}

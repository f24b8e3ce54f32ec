"""The counters of FLOPs that a report can be asked for, by name."""

from collections.abc import Callable, Sequence

from torch import nn

from .calls import PositionalArguments
from .costs import Costs, measure
from .fvcore_costs import measure_by_fvcore

Counter = Callable[[nn.Module, PositionalArguments, Sequence[str]], Costs]

COUNTERS: dict[str, Counter] = {"torch": measure, "fvcore": measure_by_fvcore}

"""Share a budget out over sites that cost and lose each by itself: one option for each, as little loss as possible in all."""

from collections.abc import Sequence
from dataclasses import dataclass

from .span_allocation import allocate_spans
from .width_network import Choice


@dataclass(frozen=True)
class Option:
    """One thing that a site may become: a Ghost module of ``intrinsic`` primary channels, or, with 0, what it was."""

    intrinsic: int
    cost: float
    loss: float


def allocate(choices: Sequence[Sequence[Option]], budget: float) -> list[Option] | None:
    """One option of each site such that costs add up to at most ``budget`` and losses to as little as can be.

    Returns:
        None where even the cheapest options cost more.
    """
    alone = [[Choice(option.cost, option.loss, gives=0, makes=0) for option in options] for options in choices]
    picked = allocate_spans(alone, (), budget)
    return None if picked is None else [options[index] for options, index in zip(choices, picked, strict=True)]

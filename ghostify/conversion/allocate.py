"""Share a budget out over sites: one option for each, as little loss as possible in all (a multiple-choice knapsack).

A price on cost, found by bisection, gives a lower bound of the loss and a first answer. Options that no answer better than
that one can contain, which the bound tells, are struck out; what is left is searched by dynamic programming over pairs of
cost and loss. (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GAP = 1e-4  # relative to the loss: what no search goes on for

STATES = 512  # partial answers that are followed up, the most promising ones


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
    costs, losses = _table(choices)
    if costs.min(1).sum() > budget:
        return None
    price, picked = _priced(costs, losses, budget)
    if price > 0:
        picked = _search(costs, losses, budget, price, picked)
    return [options[index] for options, index in zip(choices, picked, strict=True)]


def _table(choices: Sequence[Sequence[Option]]) -> tuple[np.ndarray, np.ndarray]:
    """Costs and losses as arrays (sites, options); the rows of sites with fewer options end with infinities."""
    shape = (len(choices), max((len(options) for options in choices), default=1))
    costs, losses = np.full(shape, np.inf), np.full(shape, np.inf)
    for row, options in enumerate(choices):
        costs[row, : len(options)] = [option.cost for option in options]
        losses[row, : len(options)] = [option.loss for option in options]
    return costs, losses


def _priced(costs: np.ndarray, losses: np.ndarray, budget: float) -> tuple[float, np.ndarray]:
    """The lowest price of cost at which what each site would take alone fits into the budget, and what they take."""
    rows = np.arange(len(costs))

    def choose(price: float) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a price of zero times an infinite cost
            total = np.where(np.isinf(costs), np.inf, losses + price * costs)
        best = total.min(1, keepdims=True)
        return np.where(total <= best, costs, np.inf).argmin(1)  # the cheapest of the equally good

    picked = choose(0.0)
    if costs[rows, picked].sum() <= budget:
        return 0.0, picked
    high = 1e-12
    while costs[rows, choose(high)].sum() > budget:
        high *= 4
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if costs[rows, choose(middle)].sum() > budget else (low, middle)
    return high, choose(high)


def _search(costs: np.ndarray, losses: np.ndarray, budget: float, price: float, picked: np.ndarray) -> np.ndarray:
    """The best answer within the budget, by dynamic programming, starting from one that fits."""
    rows = np.arange(len(costs))
    total = np.where(np.isinf(costs), np.inf, losses + price * costs)
    least = total.min(1)
    best = losses[rows, picked].sum()
    bound = least.sum() - price * budget  # no answer loses less
    if best - bound <= GAP * abs(best):
        return picked
    hope = total - least[:, None] <= best - bound
    order = np.argsort(hope.sum(1), kind="stable")  # those with little left to decide first
    cheapest = np.where(hope, costs, np.inf).min(1)
    rest_cost = np.append(np.cumsum(cheapest[order][::-1])[::-1][1:], 0)
    rest_total = np.append(np.cumsum(least[order][::-1])[::-1][1:], 0)
    cost, loss = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for site, later_cost, later_total in zip(order, rest_cost, rest_total, strict=True):
        options = np.flatnonzero(hope[site])
        new_cost = (cost[:, None] + costs[site, options]).ravel()
        new_loss = (loss[:, None] + losses[site, options]).ravel()
        least_loss = new_loss + price * (new_cost - budget) + later_total
        fits = (new_cost + later_cost <= budget) & (least_loss < best - GAP * abs(best))
        index = _most_promising(np.flatnonzero(fits), new_cost, new_loss, least_loss)
        if not len(index):
            return picked
        steps.append((index // len(options), options[index % len(options)]))
        cost, loss = new_cost[index], new_loss[index]
    answer, state = picked.copy(), int(loss.argmin())
    for site, (parent, option) in zip(order[::-1], reversed(steps), strict=True):
        answer[site] = option[state]
        state = int(parent[state])
    return answer


def _most_promising(index: np.ndarray, cost: np.ndarray, loss: np.ndarray, least_loss: np.ndarray) -> np.ndarray:
    """Those of the partial answers ``index`` that are followed up.

    Left out are those that cost more than another and lose no less; of the others, all but the STATES ones that may lose least.
    """
    index = index[np.lexsort((loss[index], cost[index]))]
    before = np.minimum.accumulate(np.append(np.inf, loss[index]))[:-1]
    index = index[loss[index] < before]
    if len(index) > STATES:
        index = index[np.argpartition(least_loss[index], STATES)[:STATES]]
    return index

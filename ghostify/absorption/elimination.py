"""Backward elimination of feature maps by the exact losses of the layers that read them.

A layer that reads n maps is a ridge regression on its input patches: with H the inverse of the patches' second moments and W
the filters, taking away the columns g of one map and fitting all others anew costs tr(W_g' (H_gg)^-1 W_g), exactly; then
W -= H_g (H_gg)^-1 W_g and H -= H_g (H_gg)^-1 H_g'. This is Optimal Brain Surgeon by groups (Hassibi and Stork, Second order
derivatives for network pruning, NeurIPS 1992). One pass tells the loss at every number of maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHRINK = 0.8  # share of live columns below which the inverse is copied to a smaller one


@dataclass(frozen=True)
class ReaderProblem:
    """The regression of one layer, or of one group of a grouped layer, that reads maps.

    Attributes:
        gram: (D, D) regularised second moments of the layer's input patches, float64.
        cross: (D, K) their moments with the targets, the ridge's pull towards the original filters included.
        power: second moment of the targets; what is left of it is the loss.
        columns: (n, taps) the patch columns of each of the n maps; -1 in the rows of maps that the layer does not read.
        weight: of this layer's loss among those of all readers.
    """

    gram: Tensor
    cross: Tensor
    power: float
    columns: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Elimination:
    """The order in which maps went, and what each number of maps loses.

    Attributes:
        order: (n,) maps, the first to go first; the maps that stay last are the last.
        losses: (n + 1,) the weighted loss of all readers with this many maps; infinite where no elimination came by.
    """

    order: Tensor
    losses: Tensor

    def kept(self, count: int) -> Tensor:
        """(count,) the maps that stay, in increasing order."""
        return self.order[len(self.order) - count :].sort().values


def eliminate(problems: Sequence[ReaderProblem], groups: int = 1, least: int = 1, at_once: int = 1) -> Elimination:
    """Take away the map whose loss is least once all others are fitted anew, until ``least`` maps are left.

    Args:
        problems: of all readers of the maps, at least one; their losses add up.
        groups: each of so many equal runs of maps loses equally many.
        least: maps that are left, a multiple of ``groups``.
        at_once: maps of each group that go in one step, for wide spans; the last of them may then not be the very best.

    Returns:
        The order of the elimination and its losses.
    """
    n = len(problems[0].columns)
    size = n // groups
    works = [_Working(problem) for problem in problems]
    alive = torch.ones(n, dtype=torch.bool)
    losses = torch.full((n + 1,), torch.inf, dtype=torch.float64)
    losses[n] = sum(work.weight * work.loss for work in works)
    gone: list[int] = []
    left = n
    while left > least:
        costs = torch.full((n,), 0.0, dtype=torch.float64)
        for work in works:
            costs += work.weight * work.costs(alive)
        ranked = costs.masked_fill(~alive, torch.inf).view(groups, size)
        count = min(at_once, (left - least) // groups)
        worst = ranked.topk(count, largest=False).indices + torch.arange(groups)[:, None] * size
        gone += worst.T.flatten().tolist()
        for work in works:
            work.remove(worst.T.flatten())
        alive[worst.flatten()] = False
        left -= count * groups
        losses[left] = sum(work.weight * work.loss for work in works)
    order = torch.tensor(gone + alive.nonzero().flatten().tolist())
    return Elimination(order, losses)


class _Working:
    """The inverse and the filters of one reader while maps go."""

    def __init__(self, problem: ReaderProblem):
        self.columns, self.weight = problem.columns, problem.weight
        self.live = torch.ones(len(problem.gram), dtype=torch.bool, device=problem.gram.device)
        self.read = problem.columns[:, 0] >= 0
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(problem.gram))
        self.filters = self.inverse @ problem.cross
        self.loss = problem.power - float((self.filters * problem.cross).sum())

    def costs(self, alive: Tensor) -> Tensor:
        """(n,) the loss of taking away each map; 0 for maps that are not read."""
        maps = (alive & self.read).nonzero().flatten()
        rows = self.columns[maps].to(self.inverse.device)
        filters = self.filters[rows]
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        losses = (filters * torch.linalg.solve(blocks, filters)).sum((1, 2)).cpu()
        return torch.zeros(len(alive), dtype=torch.float64).index_copy(0, maps, losses)

    def remove(self, maps: Tensor) -> None:
        """Take some maps away and fit the filters of the others anew."""
        maps = maps[self.read[maps]]
        rows = self.columns[maps].flatten().to(self.inverse.device)
        if not len(rows):
            return
        block = torch.linalg.inv(self.inverse[rows][:, rows])
        across = self.inverse[:, rows]
        shift = block @ self.filters[rows]
        self.loss += float((self.filters[rows] * shift).sum())
        self.filters -= across @ shift
        self.inverse.addmm_(across @ block, across.T, alpha=-1)
        self.live[rows] = False
        self.read[maps] = False
        if self.live.sum() < SHRINK * len(self.live):
            self._shrink()

    def _shrink(self) -> None:
        """Drop the rows and columns of maps that are gone."""
        rows = self.live.nonzero().flatten()
        self.inverse, self.filters = self.inverse[rows][:, rows], self.filters[rows]
        place = torch.full_like(self.live, -1, dtype=torch.long)
        place[rows] = torch.arange(len(rows), device=rows.device)
        self.columns = torch.where(self.read[:, None], place[self.columns.to(place.device)].to(self.columns), -1)
        self.live = torch.ones(len(rows), dtype=torch.bool, device=rows.device)

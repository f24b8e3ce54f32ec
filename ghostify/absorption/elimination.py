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

POOL = 4  # times as many maps are looked at in a step as go
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
        factor: (D, D) the lower Cholesky factor of ``gram`` where it is known already.
    """

    gram: Tensor
    cross: Tensor
    power: float
    columns: Tensor
    weight: float = 1.0
    factor: Tensor | None = None


@dataclass(frozen=True)
class Elimination:
    """The order in which maps went, and what each number of maps loses.

    Attributes:
        order: (n,) maps, the first to go first; the maps that stay last are the last.
        losses: (n + 1,) the weighted loss of all readers with this many maps, exact for :meth:`kept`; infinite for fewer maps
            than the elimination went down to, and where groups could not have equally many.
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
        at_once: maps of each group that go in one step, for wide spans: one after the other among the few that cost least when
            the step begins. Their losses are exact all the same.

    Returns:
        The order of the elimination and its losses.
    """
    with torch._C.DisableTorchFunction():  # a default device, which is a mode, would take longer than the many small steps
        return _eliminate(problems, groups, least, at_once)


def _eliminate(problems: Sequence[ReaderProblem], groups: int, least: int, at_once: int) -> Elimination:
    n = len(problems[0].columns)
    works = [_Working(problem) for problem in problems]
    alive = torch.ones(n, dtype=torch.bool)
    losses = torch.full((n + 1,), torch.inf, dtype=torch.float64)
    losses[n] = sum(work.weight * work.loss for work in works)
    gone: list[int] = []
    left = n
    while left > least:
        count = min(at_once, (left - least) // groups)
        pool = _cheapest(works, alive, groups, min(POOL * count, left // groups) if count > 1 else 1)
        worst = _one_by_one(works, pool, count) if count > 1 else pool.flatten()
        gone += worst.tolist()
        after = sum(work.weight * work.remove(worst) for work in works)
        losses[left - groups * torch.arange(1, count + 1)] = torch.as_tensor(after)[groups - 1 :: groups]
        alive[worst] = False
        left -= count * groups
    order = torch.tensor(gone + alive.nonzero().flatten().tolist())
    return Elimination(order, losses)


def _cheapest(works: "Sequence[_Working]", alive: Tensor, groups: int, count: int) -> Tensor:
    """(groups, count) maps of each group whose loss is least, in increasing order of it."""
    costs = sum((work.weight * work.costs(alive) for work in works), torch.zeros(len(alive), dtype=torch.float64))
    size = len(alive) // groups
    ranked = costs.masked_fill(~alive, torch.inf).view(groups, size)
    return ranked.topk(count, largest=False).indices + torch.arange(groups)[:, None] * size


def _one_by_one(works: "Sequence[_Working]", pool: Tensor, count: int) -> Tensor:
    """(count * groups,) maps of a pool (groups, maps) that go one after the other, one of each group at a time."""
    few = [work.among(pool.flatten()) for work in works]
    alive = torch.ones(pool.numel(), dtype=torch.bool)
    gone = []
    for _ in range(count):
        worst = _cheapest(few, alive, len(pool), 1).flatten()
        for work in few:
            work.remove(worst)
        alive[worst] = False
        gone.append(worst)
    return pool.flatten()[torch.cat(gone)]


class _Working:
    """The inverse and the filters of one reader while maps go."""

    def __init__(self, problem: ReaderProblem):
        self.problem, self.weight = problem, problem.weight
        self.columns = problem.columns.cpu()
        self.read = self.columns[:, 0] >= 0
        self.rows = torch.arange(len(problem.gram), device=problem.gram.device)  # of the problem, that inverse and filters have
        self.live = torch.ones_like(self.rows, dtype=torch.bool)
        self._invert(torch.linalg.cholesky(problem.gram) if problem.factor is None else problem.factor)
        self.loss = problem.power - float((self.filters * problem.cross).sum())

    def renew(self) -> None:
        """Inverse and filters anew, without what rounding has left in them."""
        self._invert(torch.linalg.cholesky(self.problem.gram[self.rows][:, self.rows]))

    def _invert(self, factor: Tensor) -> None:
        self.inverse = torch.cholesky_inverse(factor)
        self.filters = self.inverse @ self.problem.cross[self.rows]

    def among(self, maps: Tensor) -> "_Working":
        """The same for some maps alone, to try out in which order they go; all others stay, and are fitted anew."""
        read = self.read[maps]
        rows, factor = self._factor(maps[read])
        columns = torch.full((len(maps), self.columns.shape[1]), -1)
        columns[read] = torch.arange(len(rows)).view(-1, self.columns.shape[1])
        gram = torch.cholesky_inverse(factor)
        return _Working(ReaderProblem(gram, gram @ self.filters[rows], self.problem.power, columns, self.weight))

    def costs(self, alive: Tensor) -> Tensor:
        """(n,) the loss of taking away each map; 0 for maps that are not read."""
        maps = (alive & self.read).nonzero().flatten()
        rows = self.columns[maps].to(self.inverse.device)
        if rows.shape[1] == 1:
            losses = self.filters[rows[:, 0]].square().sum(1) / self.inverse.diagonal()[rows[:, 0]]
        else:
            filters = self.filters[rows]
            blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
            losses = (filters * torch.linalg.solve(blocks, filters)).sum((1, 2))
        return torch.zeros(len(alive), dtype=torch.float64).index_copy(0, maps, losses.double().cpu())

    def remove(self, maps: Tensor) -> Tensor:
        """Take some maps away, one after the other, and fit the filters of the others anew.

        Returns:
            (len(maps),) the loss after each of them. By the Cholesky factor L of their block of the inverse, the first j rows
            of L^-1 W_g hold what the first j columns cost.
        """
        read = self.read[maps]
        added = torch.zeros(len(maps), dtype=torch.float64)
        if bool(read.any()):
            rows, factor = self._factor(maps[read])
            half = torch.linalg.solve_triangular(factor, self.filters[rows], upper=False)
            across = torch.linalg.solve_triangular(factor, self.inverse[rows], upper=False)
            added[read] = half.square().sum(1).view(int(read.sum()), -1).sum(1).double().cpu()
            self.filters.addmm_(across.T, half, alpha=-1)
            self.inverse.addmm_(across.T, across, alpha=-1)
            self.live[rows] = False
            self.read[maps] = False
        after = self.loss + added.cumsum(0)
        self.loss = float(after[-1])
        if self.live.sum() < SHRINK * len(self.live):
            self._shrink()
        return after

    def _factor(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of some maps, and the Cholesky factor of their block of the inverse."""
        rows = self.columns[maps].flatten().to(self.inverse.device)
        factor, failed = torch.linalg.cholesky_ex(self.inverse[rows][:, rows])
        if bool(failed):  # rounding has left it indefinite
            self._shrink()
            self.renew()
            rows = self.columns[maps].flatten().to(self.inverse.device)
            factor = torch.linalg.cholesky(self.inverse[rows][:, rows])
        return rows, factor

    def _shrink(self) -> None:
        """Drop the rows and columns of maps that are gone."""
        rows = self.live.nonzero().flatten()
        self.inverse, self.filters, self.rows = self.inverse[rows][:, rows], self.filters[rows], self.rows[rows]
        place = torch.full_like(self.live, -1, dtype=torch.long)
        place[rows] = torch.arange(len(rows), device=rows.device)
        self.columns = torch.where(self.read[:, None], place.cpu()[self.columns], -1)
        self.live = torch.ones_like(rows, dtype=torch.bool)

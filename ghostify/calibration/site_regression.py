"""Ridge regression of a site's channels, with rounds that account for the activation behind them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..absorption.regression import Moments, Ridge, Solution
from .site_data import Batch, SiteData


@dataclass(frozen=True)
class SiteRegression:
    """Some channels of a site as linear functions of features of its input.

    Args:
        data: the site and the batches that reach it.
        channels: (C,) the site's output channels, equally many of each group, group by group.
        groups: independent regressions G.
        features: from a batch and positions of its output (all if None) to the features (G, P, D) there.
        budget: positions to sample of all images together; None for the site's usual number.
    """

    data: SiteData
    channels: Tensor
    groups: int
    features: Callable[[Batch, Tensor | None], Tensor]
    budget: int | None = None

    def by_group(self, values: Tensor) -> Tensor:
        """(P, C) values of the channels as (G, P, C / G)."""
        return values.unflatten(1, (self.groups, -1)).movedim(1, 0)

    def solve(self, system: Moments, ridge: float, prior: Tensor | None, rounds: int) -> Solution:
        """Solve for the channels before their activation, then correct for what is lacking after it.

        Args:
            system: moments of the features and of the channels, which the site should give before its activation.
            ridge: relative to the mean variance of a feature.
            prior: (G, D, C / G) what the ridge pulls towards; zero if None.
            rounds: corrections, each a pass over the batches; none are made where no activation follows.
        """
        solver = system.ridge(ridge)
        weights = solver(system.cross(), prior)
        shift = system.mean_y - (system.mean_x[:, None] @ weights)[:, 0]
        solution = Solution(weights, shift if system.intercept else torch.zeros_like(shift))
        for _ in range(rounds if self.data.has_activation else 0):
            solution = self._corrected(solution, system, solver, prior)
        return solution

    def _corrected(self, solution: Solution, system: Moments, solver: Ridge, prior: Tensor | None) -> Solution:
        """Add the regression of what the output lacks after its activation."""
        weights, shift = solution.weights, solution.shift
        products, sums, count = torch.zeros_like(system.xy), torch.zeros_like(system.y), 0
        for batch, positions in self.data.sampled(self.budget):
            features = self.features(batch, positions).double()
            lack = self._lack(batch, positions, features @ weights + shift[:, None])
            products += features.mT @ lack
            sums += lack.sum(1)
            count += features.shape[1]
        mean = sums / count if system.intercept else torch.zeros_like(sums)
        cross = products / count - system.mean_x[:, :, None] * mean[:, None]
        # the ridge pulls what is added, too, towards the prior
        step = solver(cross, -weights if prior is None else prior - weights)
        return Solution(weights + step, shift + mean - (system.mean_x[:, None] @ step)[:, 0] * system.intercept)

    def _lack(self, batch: Batch, positions: Tensor | None, predicted: Tensor) -> Tensor:
        """(G, P, C / G) what ``predicted`` of that shape lacks after the activation."""
        target, shortcut = self.data.target(batch, positions)
        output = predicted.movedim(0, 1).flatten(1).float()
        lack = self.data.missing(target[:, self.channels], output, shortcut, self.channels)
        return self.by_group(lack.double())

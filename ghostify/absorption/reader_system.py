"""The ridge regressions of one layer towards its own outputs: what losing maps costs, and its filters without them.

The target is the layer's own output on the original, which is linear in its patches: with R the second moments and a ridge that
pulls towards the original filters W0, the cross moments are R W0. With all maps the solution is W0, and losing maps costs what
(W - W0)' R (W - W0) is at least.
"""

import torch
from torch import Tensor

from .elimination import ReaderProblem
from .reader_moments import ReaderMoments
from .regression import Ridge

CONSTANT = 1e-12  # share of the mean variance below which a value of a patch is constant
FEW_SAMPLES = 1000  # for each unknown, below which the ridge grows: a classifier sees one of an image, and would fit noise
OUTPUTS_AT_ONCE = 1 << 22  # numbers of the filters that are solved for in one go


class ReaderSystem:
    """The regressions of one layer, one for each of its groups.

    Maps that are constant cost nothing; while they stay, they keep their filters.

    Args:
        moments: of what the layer reads.
        ridge: relative to the mean variance; more where there are few samples to an unknown.

    Attributes:
        reader: the layer.
        gram: (G, U, U) R.
        mean: (G, S, U) of the patches; None where the regression has no intercept.
        kept: (G * C,) whether a map of the layer stays.
    """

    def __init__(self, moments: ReaderMoments, ridge: float):
        self.reader = moments.reader
        self.blocks, self.unknowns = moments.blocks, moments.unknowns
        self.gram = moments.covariance()
        self.mean = moments.mean() if moments.intercept else None
        variance = self.gram.diagonal(dim1=1, dim2=2)
        scale = variance.mean(1)
        self._constant = variance <= CONSTANT * torch.maximum(scale[:, None], moments.mean().square().amax(1))
        strength = ridge * max(1.0, FEW_SAMPLES * self.unknowns / moments.samples) * scale
        strength = torch.where(self._constant.all(1), 1.0, strength)
        ridges = Ridge(self.gram, strength[:, None, None])  # adds the strength to the moments, and more where they need it
        self._factor = ridges.factor
        self.kept = torch.ones(self.reader.groups * self.reader.maps, dtype=torch.bool)

    def problems(self, maps: Tensor, metric: Tensor) -> list[ReaderProblem]:
        """The regressions that read some maps, without the maps that do not stay.

        Args:
            maps: (n, uses) of the layer's G * C maps, for each channel of a span.
            metric: (G * K,) weights of squared errors of the layer's outputs, or (G * K, G * K) of their products; products
                across groups do not count.
        """
        found = []
        for group in range(self.reader.groups):
            inside = (maps // self.reader.maps == group).all(1)
            if bool(inside.any()):
                found.append(self._problem(group, self._rows(maps % self.reader.maps).flatten(1), inside, metric))
        return found

    def _problem(self, group: int, columns: Tensor, inside: Tensor, metric: Tensor) -> ReaderProblem:
        """The regression of one group, which reads the maps ``inside`` through these columns (n, numbers of a map)."""
        live = self._rows(self._maps_of(group).nonzero().flatten())
        place = torch.full((self.unknowns,), -1).scatter(0, live, torch.arange(len(live)))
        columns = torch.where(inside[:, None], place[columns], -1)
        filters = self._weighed(group, metric)
        gram, cross, factor = self.gram[group], self.gram[group] @ filters, self._factor[group]
        power = float((filters * cross).sum())
        if len(live) < self.unknowns:
            rows = live.to(gram.device)
            gram, cross = gram[rows][:, rows], cross[rows]
            factor = torch.linalg.cholesky(gram)
        problem = ReaderProblem(gram, cross, power, columns, factor=factor)
        return _of_few(problem, inside) if 2 * columns[inside].numel() <= len(live) else problem

    def drop(self, maps: Tensor) -> None:
        """Note that some of the layer's maps do not stay."""
        self.kept[maps.flatten()] = False

    def solved(self) -> tuple[Tensor, Tensor | None]:
        """The weight of the layer that reads the maps that stay, and how much is to be added to its outputs.

        Returns:
            The weight, in the shape and type of the layer's without the dropped maps; and (G * K,) in float64, None where the
            regression has no intercept.
        """
        filters, shifts = [], []
        for group in range(self.reader.groups):
            rows = self._rows(self._maps_of(group).nonzero().flatten()).to(self.gram.device)
            solved, change = self._solve(group, rows)
            filters.append(solved.movedim(0, 1) if self.blocks > 1 else solved[0].unflatten(0, (-1, self.reader.taps)))
            shifts.append(change)
        return self.reader.as_weight(torch.stack(filters)), torch.cat(shifts) if self.mean is not None else None

    def _solve(self, group: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(S, rows, K) the filters of one group, in the layer's type, and (K,) by how much less their mean output is."""
        original = self._blocks_of(group)
        shift = torch.zeros(self.reader.outputs, dtype=torch.float64, device=rows.device)
        if len(rows) == self.unknowns:
            return original, shift
        gram, constant = self.gram[group][rows], self._constant[group][:, None]
        factor = torch.linalg.cholesky(gram[:, rows])
        solved = torch.empty(self.blocks, len(rows), self.reader.outputs, dtype=original.dtype, device=rows.device)
        for block, before in enumerate(original):
            for columns in torch.arange(self.reader.outputs, device=rows.device).split(OUTPUTS_AT_ONCE // self.unknowns + 1):
                some = before[:, columns].double()
                filters = torch.cholesky_solve(gram @ some.masked_fill(constant, 0), factor)
                filters = torch.where(constant[rows], some[rows], filters)
                solved[block, :, columns] = filters.to(solved.dtype)
                if self.mean is not None:
                    shift[columns] += self.mean[group, block] @ some - self.mean[group, block, rows] @ filters
        return solved, shift

    def _weighed(self, group: int, metric: Tensor) -> Tensor:
        """(U, at most U columns) the original filters F as errors count, those of constant values left out.

        What losing maps costs depends on F F' alone, so where columns are more than rows, a root of that stands for them.
        """
        outputs = slice(group * self.reader.outputs, (group + 1) * self.reader.outputs)
        root = _root(metric[outputs] if metric.dim() == 1 else metric[outputs, outputs])
        blocks = (b.double().masked_fill(self._constant[group][:, None], 0) for b in self._blocks_of(group))
        filters = (b * root if root.dim() == 1 else b @ root for b in blocks)
        if self.blocks * self.reader.outputs <= self.unknowns:
            return torch.cat(list(filters), 1)
        square = torch.zeros_like(self.gram[group])
        for block in filters:
            square.addmm_(block, block.T)
        return _root(square)

    def _blocks_of(self, group: int) -> Tensor:
        """(S, U, K) the original filters of a group, in the layer's type."""
        weight = self.reader.weight()[group]  # (C, T, K)
        return weight.movedim(1, 0) if self.blocks > 1 else weight.flatten(0, 1)[None]

    def _maps_of(self, group: int) -> Tensor:
        """(C,) whether a map of the group stays."""
        return self.kept[group * self.reader.maps : (group + 1) * self.reader.maps]

    def _rows(self, maps: Tensor) -> Tensor:
        """The rows of maps of a group, by as many columns as each has in a block; flat for flat maps."""
        width = self.unknowns // self.reader.maps
        rows = maps[..., None] * width + torch.arange(width)
        return rows.flatten() if maps.dim() == 1 else rows


def _root(square: Tensor) -> Tensor:
    """A matrix R with R R' a positive semidefinite matrix, or the numbers whose squares are those of a diagonal."""
    if square.dim() == 1:
        return square.clamp_min(0).sqrt()
    values, vectors = torch.linalg.eigh(square)
    return vectors * values.clamp_min(0).sqrt()


def _of_few(problem: ReaderProblem, inside: Tensor) -> ReaderProblem:
    """The same problem without the columns of all other maps, which stay and are fitted anew whatever goes.

    By the Schur complement: the inverse of what is left of the second moments is the block of their inverse.
    """
    assert problem.factor is not None
    rows = problem.columns[inside].flatten().to(problem.gram.device)
    chosen = torch.zeros(len(problem.gram), len(rows), dtype=torch.float64, device=rows.device)
    chosen[rows, torch.arange(len(rows), device=rows.device)] = 1
    half = torch.linalg.solve_triangular(problem.factor, chosen, upper=False)
    gram = torch.cholesky_inverse(torch.linalg.cholesky(half.T @ half))
    filters = torch.cholesky_solve(problem.cross, problem.factor)[rows]
    cross = gram @ filters
    columns = torch.full_like(problem.columns, -1)
    columns[inside] = torch.arange(len(rows)).view(-1, columns.shape[1])
    return ReaderProblem(gram, cross, float((filters * cross).sum()), columns, problem.weight)

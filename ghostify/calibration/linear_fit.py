"""Fit a thin pair of fully connected layers to what the original gave: reduced-rank regression."""

import torch
from torch import Tensor, nn

from ..absorption.regression import WIDEST, Moments, leading_basis
from ..graph.sites import Site
from ..layers.reduced_linear import ReducedLinear
from .report import SiteResult
from .site_data import Batches


@torch.no_grad()
def fit_linear(site: Site, module: ReducedLinear, batches: Batches, ridge: float) -> SiteResult:
    """Ridge regression towards the original's weight, cut to the rank that keeps most of what it predicts.

    Among all products of this rank it is the best for these inputs (Izenman, Reduced-rank regression, 1975).

    Args:
        site: the teacher's fully connected layer.
        module: the student's, fitted in place.
        batches: what reaches the student's layer and what the teacher's gives, anew at each call.
        ridge: relative to the mean variance of an input.
    """
    original = site.linear
    features, targets = module.in_features, module.out_features
    if features > WIDEST:
        return SiteResult(site.name, site.kind, reason=f"{features} inputs are too many to solve for")
    system = Moments.zeros(1, features, targets, original.weight.device, original.bias is not None)
    before = 0.0
    for batch in batches():
        before += float((module(batch.inputs) - batch.output).double().square().sum())
        system.add(batch.inputs.flatten(0, -2)[None], batch.output.flatten(0, -2)[None])
    weights = system.solve(ridge, original.weight.detach().double().T[None])[0]  # (in, out)
    basis = leading_basis(system, weights, module.rank)
    module.reduce.weight.copy_((weights @ basis).T)
    module.expand.weight.copy_(basis)
    if module.expand.bias is not None:
        module.expand.bias.copy_(system.mean_y[0] - system.mean_x[0] @ weights @ basis @ basis.T)
    after = sum(float((module(batch.inputs) - batch.output).double().square().sum()) for batch in batches())
    total = max(float(system.variance().sum()) * system.count, 1e-30)
    return SiteResult(site.name, site.kind, before=before / total, after=after / total)


@torch.no_grad()
def refit_linear(module: nn.Linear, original: nn.Linear, batches: Batches, ridge: float) -> None:
    """Ridge regression of a layer that was not converted towards the original's weight, in place.

    A classifier sees one position an image, so the ridge grows with the unknowns that there are to each.

    Args:
        module: the student's layer.
        original: the teacher's.
        batches, ridge: as for :func:`fit_linear`.
    """
    if module.in_features > WIDEST:
        return
    system = Moments.zeros(1, module.in_features, module.out_features, original.weight.device, original.bias is not None)
    for batch in batches():
        system.add(batch.inputs.flatten(0, -2)[None].float(), batch.output.flatten(0, -2)[None].float())
    strength = max(ridge, module.in_features / system.count)
    weights = system.solve(strength, original.weight.detach().double().T[None])[0]
    module.weight.copy_(weights.T)
    if module.bias is not None:
        module.bias.copy_(system.mean_y[0] - system.mean_x[0] @ weights)


@torch.no_grad()
def linear_errors(module: nn.Module, batches: Batches) -> float:
    """The squared error of a fully connected layer, relative to the variance of what the teacher's gives.

    Args:
        module: the student's layer.
        batches: as for :func:`fit_linear`.
    """
    wrong, count = 0.0, 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    for batch in batches():
        target = batch.output.flatten(0, -2).double()
        wrong += float((module(batch.inputs).flatten(0, -2).double() - target).square().sum())
        total, squares, count = total + target.sum(0), squares + target.square().sum(0), count + len(target)
    variance = torch.as_tensor(squares - total**2 / max(count, 1)).clamp_min(0).sum()
    return wrong / max(float(variance), 1e-30)

"""Refit layers that keep their class: those that absorb maps, with their errors, and those that changed ones lie before."""

import copy
from typing import cast

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..graph.sites import Site
from .linear_fit import linear_errors, refit_linear
from .primary_fit import refit_layer
from .report import SiteResult
from .settings import Settings
from .site_data import Batches, SiteData
from .site_error import relative_error


def fit_reader(data: SiteData, settings: Settings, conv: nn.Module, norm: nn.Module | None) -> SiteResult:
    """Refit a convolution that absorbs maps, in place; it stays as it was where that is no better.

    Args:
        data: the layer as the absorbed filters leave it, and the batches that reach it.
        settings: of the closed form.
        conv, norm: the student's; ``norm`` is None where none belongs to the layer.
    """
    act = data.site.act if data.site.act_name is not None else None
    chain = nn.Sequential(*(layer for layer in (conv, norm, act) if layer is not None))
    before, start = relative_error(data, chain), copy.deepcopy(chain.state_dict())
    refit_layer(data, settings, cast(_ConvNd, conv), norm)
    after = relative_error(data, chain)
    if not after < before:
        chain.load_state_dict(start)
        after = before
    return SiteResult(data.site.name, data.site.kind, "absorbed", before, after)


def fit_linear_reader(site: Site, layer: nn.Linear, batches: Batches, ridge: float) -> SiteResult:
    """Refit a fully connected layer that absorbs maps, in place; it stays as it was where that is no better.

    Args:
        site: the layer as the absorbed filters leave it.
        layer: the student's.
        batches: what reaches the layer, and what the teacher's gives.
        ridge: relative to the mean variance of an input.
    """
    start = copy.deepcopy(layer.state_dict())
    before = linear_errors(layer, batches)
    refit_linear(layer, site.linear, batches, ridge)
    after = linear_errors(layer, batches)
    if not after < before:
        layer.load_state_dict(start)
        after = before
    return SiteResult(site.name, site.kind, "absorbed", before, after)

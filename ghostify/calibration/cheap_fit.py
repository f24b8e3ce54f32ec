"""Fit the kernels of a cheap operation: each ghost on the intrinsic maps that it is made from."""

import torch
from torch import Tensor

from ..absorption.patches import Taps, at_positions, conv_in
from ..absorption.regression import Moments, install_filters
from ..layers.ghost_module import GhostModule, activated
from .settings import Settings
from .site_data import NEIGHBOURS, Batch, SiteData
from .site_regression import SiteRegression


def fit_cheap(module: GhostModule, data: SiteData, settings: Settings) -> None:
    """Set the cheap operation's kernels and norm, in place, given the module's intrinsic maps as they are.

    Args:
        module: a Ghost module whose primary convolution is fitted.
        data: its site and the batches that reach it.
        settings: ridge and rounds are used.
    """
    ghosts = module.original_channels()[1].to(data.device)
    conv = conv_in(module.cheap_operation)
    norm = data.norm_in(module.cheap_operation)
    features: _PointwiseFeatures | _DepthwiseFeatures
    features = _PointwiseFeatures(module) if module.cheap == "pointwise" else _DepthwiseFeatures(module, data.device)
    groups, unknowns = features.groups, features.unknowns
    budget = int(min(data.budget, max(NEIGHBOURS / (groups * unknowns), 4096, 16 * unknowns)))
    regression = SiteRegression(data, ghosts, groups, features, budget)
    intercept = norm is not None or conv.bias is not None
    system = Moments.zeros(groups, unknowns, len(ghosts) // groups, data.device, intercept)
    for batch, positions in data.sampled(budget):
        target, _ = data.target(batch, positions)
        system.add(features(batch, positions), regression.by_group(target[:, ghosts]))
    # nothing to be pulled towards but zero, so no more than the number of positions asks for
    ridge = settings.ridge * unknowns / max(system.count, 1)
    solution = regression.solve(system, ridge, None, settings.rounds)
    install_filters(conv, norm, system, solution, data.filter_length(ghosts))


class _PointwiseFeatures:
    """All intrinsic maps at each position, for all ghosts together: (1, P, m) in float64."""

    def __init__(self, module: GhostModule):
        self.module = module
        self.groups, self.unknowns = 1, module.intrinsic_channels

    def __call__(self, batch: Batch, positions: Tensor | None) -> Tensor:
        return at_positions(_source_maps(self.module, batch), positions).double()[None]


class _DepthwiseFeatures:
    """The neighbourhood of each ghost's source map at each position: (ghosts, P, taps) in float64."""

    def __init__(self, module: GhostModule, device: torch.device):
        self.module = module
        self.taps = Taps(conv_in(module.cheap_operation))
        self.sources = module.source_positions().to(device)
        self.groups, self.unknowns = len(self.sources), self.taps.size

    def __call__(self, batch: Batch, positions: Tensor | None) -> Tensor:
        maps = _source_maps(self.module, batch)
        return self.taps.gather(maps, positions).flatten(0, 1).movedim(1, 0)[self.sources].double()


def _source_maps(module: GhostModule, batch: Batch) -> Tensor:
    """The intrinsic maps as the cheap operation sees them."""
    return activated(module.primary_conv(batch.inputs), module.intrinsic_act)

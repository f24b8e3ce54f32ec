"""Fit the filters of a primary convolution, or of a layer that stays dense, by ridge regression towards the original's.

What a layer computes before its activation is linear in its filters, and the teacher says what should come out; the normal
equations are summed over batches.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..absorption.patches import Taps, at_positions, conv_in
from ..absorption.regression import WIDEST, Moments, Solution, install_filters, leading_basis
from ..layers.cheap_conv import Cheap
from ..layers.ghost_module import GhostModule
from ..layers.norm_affine import set_norm
from .settings import Settings
from .site_data import Batch, SiteData
from .site_regression import SiteRegression


class PrimaryFit:
    """Regressions for the filters of one layer.

    Args:
        data: the layer and the batches that reach it.
        settings: ridge, rank and rounds are used.
    """

    def __init__(self, data: SiteData, settings: Settings):
        self.data, self.settings = data, settings
        self.taps = Taps(data.conv)

    def obstacle(self) -> str | None:
        """Why no regression can find the layer's weight; None where the layer is its weight times patches."""
        data = self.data
        if data.unknowns > WIDEST:
            return f"{data.unknowns} unknowns each are too many to solve for"
        maps = next(data.batches()).inputs[:1].float()
        conv = copy.deepcopy(data.conv).float()
        try:
            patches = self.taps.gather(maps, None)
            by_group = patches[0].unflatten(1, (data.groups, -1)).flatten(2).movedim(1, 0)  # (groups, P, unknowns)
            product = by_group @ conv.weight.detach().flatten(1).view(data.groups, -1, data.unknowns).mT
            product = product.movedim(0, 1).flatten(1) + (conv.bias if getattr(conv, "bias", None) is not None else 0)
            output = conv(maps)[0].flatten(1).T
        except (ValueError, RuntimeError) as error:
            return str(error)
        if not torch.allclose(product, output, rtol=1e-3, atol=1e-3 * float(output.abs().max()) + 1e-6):
            return "its kernel is more than its weight"
        return None

    def system(self) -> Moments:
        """Empty normal equations for the filters of all channels."""
        data = self.data
        intercept = data.norm is not None or getattr(data.conv, "bias", None) is not None
        return Moments.zeros(data.groups, data.unknowns, data.n // data.groups, data.device, intercept)

    def add(self, system: Moments, batch: Batch, positions: Tensor | None) -> None:
        """Add positions of one batch to the normal equations."""
        target, _ = self.data.target(batch, positions)
        system.add(self._features(batch, positions), target.unflatten(1, (self.data.groups, -1)).movedim(1, 0))

    def fit(self, module: GhostModule, system: Moments) -> None:
        """Set the filters of the intrinsic maps, and their norm, in place."""
        kept = module.original_channels()[0].to(self.data.device)
        if self.is_one_product(module.cheap):
            solution = self._of_lower_rank(self._solve(system, self._all_channels()), system, kept)
        else:
            solution = self._solve(system, kept)
        norm = self.data.norm_in(module.primary_conv)
        install_filters(conv_in(module.primary_conv), norm, system, solution, self.data.filter_length(kept))

    def is_one_product(self, cheap: Cheap) -> bool:
        """Whether intrinsic maps and ghosts together are one linear map of their rank."""
        return self.settings.rank and cheap == "pointwise" and self.data.groups == 1 and self.data.act is None

    def refit(self, conv: _ConvNd, norm: nn.Module | None, system: Moments) -> None:
        """Set all filters of a layer that was not converted, and its norm, in place; both are the student's."""
        channels = self._all_channels()
        install_filters(conv, norm, system, self._solve(system, channels), self.data.filter_length(channels))

    def rescale(self, module: GhostModule) -> None:
        """Keep the filters of the intrinsic maps: the norm alone is regressed, channel by channel."""
        data = self.data
        norm = data.norm_in(module.primary_conv)
        if norm is None or norm.running_var is None:
            return
        kept = module.original_channels()[0].to(data.device)
        conv = conv_in(module.primary_conv)
        system = Moments.zeros(len(kept), 1, 1, data.device)
        for batch, positions in data.sampled():
            target, _ = data.target(batch, positions)
            maps = at_positions(conv(batch.inputs), positions).float()
            system.add(maps.T[:, :, None], target[:, kept].T[:, :, None])
        gain = system.solve(self.settings.ridge, data.affine.scale[kept].double().view(-1, 1, 1))[:, 0, 0]
        variance = system.covariance()[:, 0, 0].clamp_min(0)
        set_norm(norm, gain, system.mean_y[:, 0], system.mean_x[:, 0], variance)

    def _all_channels(self) -> Tensor:
        return torch.arange(self.data.n, device=self.data.device)

    def _features(self, batch: Batch, positions: Tensor | None) -> Tensor:
        """(groups, P, unknowns) patches of the input."""
        patches = self.taps.gather(batch.inputs.float(), positions).flatten(0, 1)
        return patches.unflatten(1, (self.data.groups, -1)).flatten(2).movedim(1, 0)

    def _solve(self, system: Moments, channels: Tensor) -> Solution:
        """Regress some channels, equally many of each group, towards the original filters."""
        data = self.data
        within = channels.view(data.groups, -1) % (data.n // data.groups)
        filters = (data.conv.weight.detach().double().flatten(1) * data.affine.scale.double()[:, None])[channels]
        prior = filters.view(data.groups, -1, data.unknowns).mT
        # more ridge where positions are fewer than unknowns
        ridge = self.settings.ridge * max(1, data.unknowns / system.count)
        regression = SiteRegression(data, channels, data.groups, self._features)
        return regression.solve(system.of_targets(within), ridge, prior, self.settings.rounds)

    def _of_lower_rank(self, solution: Solution, system: Moments, kept: Tensor) -> Solution:
        """Cut the filters of all channels to the rank of the intrinsic maps, such that most of what they predict is kept.

        Where no activation stands between, ghosts made from all intrinsic maps are one product of this rank, and among all
        such products this is the best (Izenman, Reduced-rank regression, 1975); the kept channels are as good a basis of it
        as any.
        """
        weights = solution.weights[0]
        basis = leading_basis(system, weights, len(kept))
        cut = weights @ basis @ basis.T
        shift = solution.shift[0] + (system.mean_x[0] @ (weights - cut) if system.intercept else 0)
        return Solution(cut[None, :, kept], shift[None, kept])


@torch.no_grad()
def refit_layer(data: SiteData, settings: Settings, conv: _ConvNd, norm: nn.Module | None) -> None:
    """Refit a layer that was not converted, in place, where a regression can.

    Args:
        data: the teacher's layer and the batches that reach the student's.
        settings: of the closed form.
        conv, norm: the student's; ``norm`` is None where none belongs to the layer.
    """
    layer = PrimaryFit(data, settings)
    if layer.obstacle() is not None or data.sees_image:
        return
    system = layer.system()
    for batch, positions in data.sampled():
        layer.add(system, batch, positions)
    layer.refit(conv, norm, system)

"""Fit a Ghost module to its site in closed form: its channels, its primary filters, its cheap kernels and its norms."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..absorption.patches import Taps, conv_in
from ..layers.cheap_conv import Cheap
from ..layers.ghost_module import GhostModule
from .alignment import Partition
from .channel_choice import ChannelChoice, MapMoments, channels_of, choose_depthwise, choose_pointwise, unexplained_by
from .cheap_fit import fit_cheap
from .primary_fit import PrimaryFit
from .report import SiteResult
from .settings import Settings
from .site_data import SiteData
from .site_error import relative_error
from .survey import Survey, survey_site


class SiteFit:
    """The fits of one site: any number of modules for the same place.

    Args:
        data: the site and the batches that reach it.
        settings: of the closed form.
        partition: what the layers that this one's output is added to have in common with it.
    """

    def __init__(self, data: SiteData, settings: Settings, partition: Partition | None = None):
        self.data, self.settings, self.partition = data, settings, partition
        self.primary = PrimaryFit(data, settings)

    @torch.no_grad()
    def fit(self, ghost: GhostModule, survey: Survey | None = None) -> tuple[GhostModule, SiteResult]:
        """Fit a module in the order in which its parts depend on each other.

        Args:
            ghost: the module as it starts; it is not changed.
            survey: of this site, by :meth:`survey`; None to make one.

        Returns:
            The fitted module, or ``ghost`` itself where its warm start was better, and the errors before and after.
        """
        survey = self.survey(ghost) if survey is None else survey
        before = relative_error(self.data, ghost)
        for choice in self._choices(ghost, survey):
            module = self._build(ghost, choice)
            if survey.filters is not None:
                self.primary.fit(module, survey.filters)
            else:
                self.primary.rescale(module)
            fit_cheap(module, self.data, self.settings)
            after = relative_error(self.data, module)
            if after < before or self._binding(ghost) is not None:
                return module, self._result(module, before, after, survey.notes)
        return ghost, self._result(ghost, before, before, ["the warm start was better"])

    @torch.no_grad()
    def survey(self, ghost: GhostModule, earlier: Survey | None = None) -> Survey:
        """What :meth:`fit` needs to know for a module.

        Args:
            ghost: the module.
            earlier: a survey made for another module of this site; it is given back where it serves this one, too.
        """
        kinds = self._kinds(ghost)
        if earlier is not None and (not self.settings.choose or earlier.covers(kinds)):
            return earlier
        obstacle = self.primary.obstacle() if earlier is None else earlier.obstacle
        refit = obstacle is None and self.settings.refit
        taps = {kind: self._taps(ghost, kind) for kind in kinds} if self.settings.choose else {}
        return survey_site(self.data, self.primary if refit else None, taps, obstacle)

    @torch.no_grad()
    def describe(self, ghost: GhostModule, partition: Partition) -> None:
        """Add the moments of the teacher's maps to a partition, for the module's widest cheap operation."""
        widest = self._kinds(ghost)[-1]
        survey = survey_site(self.data, None, {widest: self._taps(ghost, widest)})
        partition.add(ghost.intrinsic_channels, widest, survey.maps[widest])

    def _result(self, module: GhostModule, before: float, after: float, notes: Sequence[str]) -> SiteResult:
        site = self.data.site
        return SiteResult(site.name, site.kind, module.cheap, before, after, "; ".join(notes))

    def _kinds(self, ghost: GhostModule) -> list[Cheap]:
        """Cheap operations to choose between; pointwise ones only where they cost little beside the primary filters."""
        if not self.settings.auto:
            return [ghost.cheap]
        return ["depthwise", "pointwise"] if ghost.intrinsic_channels * 8 <= self.data.unknowns else ["depthwise"]

    def _choices(self, ghost: GhostModule, survey: Survey) -> Iterator[ChannelChoice]:
        """What the data say; should that fail, the channels of the warm start."""
        maps = {kind: survey.maps[kind] for kind in self._kinds(ghost) if kind in survey.maps}
        choices = [self._choice(ghost, kind, moments) for kind, moments in maps.items()]
        if choices:
            yield min(choices, key=lambda choice: choice.unexplained)
        yield channels_of(ghost)

    def _choice(self, ghost: GhostModule, kind: Cheap, moments: MapMoments) -> ChannelChoice:
        """The best channels for one cheap operation, those of the partition where it binds the module."""
        m, groups = ghost.intrinsic_channels, self.data.groups
        binding = self._binding(ghost)
        intrinsic, sources = (None, None) if binding is None else (binding.intrinsic, binding.sources)
        if kind == "depthwise":
            return choose_depthwise(moments, m, groups, intrinsic, sources)
        covariance = moments.covariance().cpu()
        if intrinsic is None:
            intrinsic, unexplained = choose_pointwise(covariance, m, groups)
        else:
            unexplained = unexplained_by(covariance, intrinsic)
        ghosts = self.data.n - m
        if self.primary.is_one_product(kind):
            unexplained = float(torch.linalg.eigvalsh(covariance)[:ghosts].clamp_min(0).sum())
        return ChannelChoice(kind, intrinsic, torch.zeros(ghosts, dtype=torch.long), unexplained)

    def _binding(self, ghost: GhostModule) -> Partition | None:
        """The partition that a module is to keep to."""
        binds = self.partition is not None and self.partition.binds(ghost.intrinsic_channels)
        return self.partition if binds else None

    def _taps(self, ghost: GhostModule, kind: Cheap) -> Taps:
        """The neighbourhood that a cheap operation sees, the module's own or one that it could have."""
        if kind == ghost.cheap:
            return Taps(conv_in(ghost.cheap_operation))
        dims = self.data.conv.weight.dim() - 2
        conv_class: Callable[..., _ConvNd] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        size = 1 if kind == "pointwise" else 3
        return Taps(conv_class(1, 1, size, padding=size // 2, device=self.data.device))

    def _build(self, ghost: GhostModule, choice: ChannelChoice) -> GhostModule:
        """A module with these channels, whose parts are still the original's."""
        site = self.data.site
        kernel = conv_in(ghost.cheap_operation)
        built = GhostModule.from_conv(
            self.data.conv,
            choice.intrinsic,
            choice.sources,
            norm=site.norm,
            act=site.act,
            act_inside=site.act_name is not None,
            dw_size=max(kernel.kernel_size) if ghost.cheap == "depthwise" else 3,
            cheap=choice.cheap,
        )
        return built.eval()

"""Fit one Ghost module in closed form: its channels, its primary filters, its cheap kernels and its norms.

What a site computes before its activation is linear in its filters, and the teacher says what should come out. So each step
is a ridge regression whose normal equations are summed over batches.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.sites import Site
from ..layers.ghost_module import Cheap, GhostModule
from ..layers.norm_affine import set_norm
from .alignment import Partition
from .channel_choice import MapMoments, by_channel, choose_depthwise, choose_pointwise, left_by
from .patches import Taps, at_positions
from .regression import Moments, install_filters
from .settings import Settings
from .site_data import WORK, Batch, SiteData

ERROR_IMAGES = 128  # images, about, that errors are measured on


NEIGHBOURS = 65536 * 64 * 9  # numbers around the positions that channels are chosen by, or cheap kernels fitted at


WIDEST = 9216  # unknowns of one filter; the normal equations of more would take over 0.7 GB


@dataclass(frozen=True)
class Fitted:
    """A fitted module and its relative error on the calibration images, before and after; what should be said of it."""

    module: GhostModule
    before: float
    after: float
    notes: tuple[str, ...] = ()


class SiteProblem(SiteData):
    """One site's regressions.

    Args:
        ghost: the student's module, as it starts; for :meth:`solve_dense` the layer that was not converted.
        site, batches, images, after: as for :class:`SiteData`.
        partition: what the layers that this one's output is added to have in common with it.
    """

    def __init__(
        self,
        site: Site,
        ghost: Any,
        batches: Callable[[], Iterator[Batch]],
        images: int,
        settings: Settings,
        after: nn.Module | None = None,
        partition: Partition | None = None,
    ):
        super().__init__(site, batches, images, settings.seed, after)
        self.ghost, self.settings, self.partition = ghost, settings, partition
        self.taps = Taps(self.conv)
        self.notes: list[str] = []
        self.plain: bool | None = None
        self.surveyed: tuple[Moments | None, dict[Cheap, MapMoments]] | None = None

    def solve_next(self, ghost: GhostModule) -> Fitted:
        """Fit another module for the same place, without a second pass for what both need to know."""
        self.ghost = ghost
        return self.solve()

    @torch.no_grad()
    def solve(self) -> Fitted:
        """Fit the module in the order in which its parts depend on each other."""
        system, maps = self._moments(self._kinds())
        before = self._error(self.ghost)
        best = Fitted(self.ghost, before, before, ("the warm start was better",))
        for kind, intrinsic, sources in self._candidates(maps):
            module = self._build(kind, intrinsic, sources)
            if system is not None:
                self._fit_primary(module, system)
            else:
                self._rescale_primary(module)
            self._fit_cheap(module)
            after = self._error(module)
            if after < best.after or self._bound() is not None:
                return Fitted(module, before, after, tuple(self.notes))
        return best

    @torch.no_grad()
    def describe(self, partition: Partition) -> None:
        """Tell a partition of the teacher's maps, as far as it goes by them."""
        partition.add(self.ghost.intrinsic_channels, self._survey(False, self._kinds()[-1:])[1])

    def _candidates(self, maps: dict[Cheap, MapMoments]) -> Iterator[tuple[Cheap, Tensor, Tensor]]:
        """Cheap operation, intrinsic channels and sources: what the data say; should that fail, those of the warm start."""
        m = self.ghost.intrinsic_channels
        bound = self._bound()
        chosen: list[tuple[float, Cheap, Tensor, Tensor]] = []
        for kind, moments in maps.items():
            if kind == "pointwise":
                covariance = moments.covariance().cpu()
                if bound is None or bound.intrinsic is None:
                    intrinsic, left = choose_pointwise(covariance, m, self.groups)
                else:
                    intrinsic, left = bound.intrinsic, left_by(covariance, bound.intrinsic)
                if self._is_one_product(kind):
                    left = float(torch.linalg.eigvalsh(covariance)[: self.n - m].clamp_min(0).sum())
                chosen.append((left, kind, intrinsic, torch.zeros(self.n - m, dtype=torch.long)))
            else:
                fixed = (None, None) if bound is None else (bound.intrinsic, bound.sources)
                intrinsic, sources, left = choose_depthwise(moments, m, self.groups, *fixed)
                chosen.append((left, kind, intrinsic, sources))
        if chosen:
            yield min(chosen, key=lambda c: c[0])[1:]
        intrinsic, found = by_channel(self.ghost)
        yield self.ghost.cheap, intrinsic, torch.zeros(self.n - m, dtype=torch.long) if found is None else found

    def _bound(self) -> Partition | None:
        """The partition that this layer is to keep to."""
        bound = self.partition is not None and self.partition.binds(self.ghost.intrinsic_channels)
        return self.partition if bound else None

    def _kinds(self) -> list[Cheap]:
        if not self.settings.auto:
            return [self.ghost.cheap]
        per_map = self.unknowns
        return ["depthwise", "pointwise"] if self.ghost.intrinsic_channels * 8 <= per_map else ["depthwise"]

    def _moments(self, kinds: list[Cheap]) -> tuple[Moments | None, dict[Cheap, MapMoments]]:
        """Of :meth:`_survey`, which is made once where it can be."""
        if self.plain is None:
            self.plain = self._is_plain()
        if self.surveyed is None or (self.settings.choose and not set(kinds) <= self.surveyed[1].keys()):
            self.surveyed = self._survey(self.plain and self.settings.refit, kinds)
        system, maps = self.surveyed
        return system, {kind: maps[kind] for kind in kinds if kind in maps}

    def _is_plain(self) -> bool:
        """Whether the layer is its weight times patches, so that a regression can find the weight."""
        if self.unknowns > WIDEST:
            self.notes.append(f"filters kept: {self.unknowns} unknowns each are too many to solve for")
            return False
        batch = next(self.batches())
        some = batch.inputs[:1].float()
        conv = copy.deepcopy(self.conv).float()
        try:
            patches = self.taps.gather(some, None)
            by_group = patches[0].unflatten(1, (self.groups, -1)).flatten(2).movedim(1, 0)  # (groups, P, unknowns)
            given = by_group @ conv.weight.detach().flatten(1).view(self.groups, -1, self.unknowns).mT
            given = given.movedim(0, 1).flatten(1) + (conv.bias if getattr(conv, "bias", None) is not None else 0)
            wanted = conv(some)[0].flatten(1).T
        except (ValueError, RuntimeError) as error:
            self.notes.append(f"filters kept: {error}")
            return False
        if not torch.allclose(given, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()) + 1e-6):
            self.notes.append("filters kept: its kernel is more than its weight")
            return False
        return True

    def _survey(self, refit: bool, kinds: list[Cheap]) -> tuple[Moments | None, dict[Cheap, MapMoments]]:
        """One pass: normal equations for all filters, and moments of the teacher's maps to choose channels by."""
        intercept = self.norm is not None or getattr(self.conv, "bias", None) is not None
        system = None
        if refit:
            system = Moments.zeros(self.groups, self.unknowns, self.n // self.groups, self.device, intercept)
        maps: dict[Cheap, MapMoments] = {}
        cheap_taps = {kind: self._cheap_taps(kind) for kind in kinds}
        if self.settings.choose:
            maps = {kind: MapMoments(self.n, cheap_taps[kind].size, self.device) for kind in kinds}
        for batch, positions in self.sampled():
            if system is not None:
                target, _ = self.target(batch, positions)
                self._add(system, batch, positions, target)
            for kind, moments in maps.items():
                full = self.maps(batch)
                few = self._fewer(positions, full.shape, moments.taps)
                patches = cheap_taps[kind].gather(full, few).flatten(0, 1)
                moments.add(patches, at_positions(full, few))
        return system, maps

    def _fewer(self, positions: Tensor | None, shape: torch.Size, taps: int) -> Tensor | None:
        """Positions for choosing channels, where n^2 products are taken of each tap."""
        total = math.prod(shape[2:])
        wanted = max(2, math.ceil(max(min(WORK / self.n, NEIGHBOURS) / (taps * self.n), 1024) / self.images))
        have = total if positions is None else len(positions)
        if wanted >= have:
            return positions
        picked = torch.linspace(0, have - 1, wanted, device=self.device).long()
        return picked if positions is None else positions[picked]

    def _features(self, batch: Batch, positions: Tensor | None) -> Tensor:
        """(groups, P, unknowns)"""
        patches = self.taps.gather(batch.inputs.float(), positions).flatten(0, 1)
        return patches.unflatten(1, (self.groups, -1)).flatten(2).movedim(1, 0)

    def _add(self, system: Moments, batch: Batch, positions: Tensor | None, target: Tensor) -> None:
        system.add(self._features(batch, positions), target.unflatten(1, (self.groups, -1)).movedim(1, 0))

    def _cheap_taps(self, kind: Cheap) -> Taps:
        if kind == self.ghost.cheap:
            return Taps(self.ghost.cheap_operation[0])
        dims = self.conv.weight.dim() - 2
        conv_class: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        size = 1 if kind == "pointwise" else 3
        return Taps(conv_class(1, 1, size, padding=size // 2, device=self.device))

    def _build(self, kind: Cheap, intrinsic: Tensor, sources: Tensor) -> GhostModule:
        """A module with these channels, whose parts are still the original's."""
        size = max(self.ghost.cheap_operation[0].kernel_size) if self.ghost.cheap == "depthwise" else 3
        built = GhostModule.from_conv(
            self.conv, intrinsic, sources, norm=self.site.norm, act=self.site.act,
            act_inside=self.site.act_name is not None, dw_size=size, cheap=kind,
        )  # fmt: skip
        return built.eval()

    def _fit_primary(self, module: GhostModule, system: Moments) -> None:
        """Filters of the intrinsic maps, by :meth:`_regress`."""
        kept = module.original_channels()[0].to(self.device)
        if self._is_one_product(module.cheap):
            weights, shift = self._reduce(*self._regress(system, torch.arange(self.n, device=self.device)), system, kept)
        else:
            weights, shift = self._regress(system, kept)
        install_filters(module.primary_conv[0], self._norm_of(module.primary_conv), system, weights, shift,
                         self.conv.weight.detach()[kept].flatten(1).norm(dim=1))  # fmt: skip

    def _is_one_product(self, kind: Cheap) -> bool:
        """Whether intrinsic maps and ghosts together are one linear map of their rank."""
        return self.settings.rank and kind == "pointwise" and self.groups == 1 and self.act is None

    def _reduce(self, weights: Tensor, shift: Tensor, system: Moments, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Cut the filters of all channels to the rank of the intrinsic maps, such that most of what they predict is kept.

        Where no activation stands between, ghosts made from all intrinsic maps are one product of this rank, and among all
        such products this is the best (Izenman, Reduced-rank regression, 1975); the kept channels are as good a basis of it
        as any.
        """
        gram = weights[0].mT @ system.covariance()[0] @ weights[0]
        basis = torch.linalg.eigh((gram + gram.T) / 2).eigenvectors[:, -len(kept) :]
        cut = weights[0] @ basis @ basis.T
        mean = system.mean_x[0]
        shift = shift[0] + (mean @ (weights[0] - cut) if system.intercept else 0)
        return cut[None, :, kept], shift[None, kept]

    def _regress(self, system: Moments, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Ridge regression of some channels towards the original filters; then rounds that account for the activation.

        Args:
            system: moments of all channels.
            kept: the channels, equally many of each group.

        Returns:
            Weights (groups, unknowns, channels) and intercepts (groups, channels).
        """
        by_group = kept.view(self.groups, -1)
        within = by_group % (self.n // self.groups)
        filters = (self.conv.weight.detach().double().flatten(1) * self.affine.scale.double()[:, None])[kept]
        prior = filters.view(self.groups, -1, self.unknowns).mT
        cross = system.cross().gather(2, within[:, None].expand(-1, self.unknowns, -1))
        # more ridge where positions are fewer than unknowns
        solver = system.ridge(self.settings.ridge * max(1, self.unknowns / system.count))
        weights = solver(cross, prior)
        mean_y = system.mean_y.gather(1, within)
        shift = mean_y - (system.mean_x[:, None] @ weights)[:, 0]
        if not system.intercept:
            shift = torch.zeros_like(shift)
        for _ in range(self.settings.rounds if self._acts() else 0):
            lacks = Moments.zeros(self.groups, self.unknowns, within.shape[1], self.device, system.intercept)
            sums, products, count = lacks.y, lacks.xy, 0
            for batch, positions in self.sampled():
                target, shortcut = self.target(batch, positions)
                features = self._features(batch, positions).double()
                given = (features @ weights + shift[:, None]).movedim(0, 1).flatten(1).float()
                lack = (
                    self.missing(target[:, kept], given, shortcut, kept).double().unflatten(1, (self.groups, -1)).movedim(1, 0)
                )
                products += features.mT @ lack
                sums += lack.sum(1)
                count += features.shape[1]
            mean = sums / count if system.intercept else torch.zeros_like(sums)
            cross = products / count - system.mean_x[:, :, None] * mean[:, None]
            # the ridge pulls what is added, too, towards the original
            step = solver(cross, prior - weights)
            weights = weights + step
            shift = shift + mean - (system.mean_x[:, None] @ step)[:, 0] * system.intercept
        return weights, shift

    @torch.no_grad()
    def solve_dense(self, conv: Any, norm: Any) -> None:
        """Refit a layer that was not converted, in place: ``conv`` and ``norm`` are the student's."""
        if not self._is_plain() or self.sees_image:
            return
        system, _ = self._survey(True, [])
        assert system is not None
        weights, shift = self._regress(system, torch.arange(self.n, device=self.device))
        install_filters(conv, norm, system, weights, shift, self.conv.weight.detach().flatten(1).norm(dim=1))

    def _acts(self) -> bool:
        return self.act is not None or self.after is not None

    def _rescale_primary(self, module: GhostModule) -> None:
        """Filters kept: the norm alone is regressed, channel by channel."""
        norm = self._norm_of(module.primary_conv)
        if norm is None or norm.running_var is None:
            return
        kept = module.original_channels()[0].to(self.device)
        conv: Any = module.primary_conv[0]
        sums = Moments.zeros(len(kept), 1, 1, self.device)
        for batch, positions in self.sampled():
            target, _ = self.target(batch, positions)
            given = at_positions(conv(batch.inputs), positions).float()
            sums.add(given.T[:, :, None], target[:, kept].T[:, :, None])
        gain = sums.solve(self.settings.ridge, self.affine.scale[kept].double().view(-1, 1, 1))[:, 0, 0]
        variance = sums.covariance()[:, 0, 0].clamp_min(0)
        set_norm(norm, gain, sums.mean_y[:, 0], sums.mean_x[:, 0], variance)

    def _fit_cheap(self, module: GhostModule) -> None:
        """Each ghost on the maps it is made from."""
        made = module.original_channels()[1].to(self.device)
        conv: Any = module.cheap_operation[0]
        norm = self._norm_of(module.cheap_operation)
        taps = Taps(conv)
        pointwise = module.cheap == "pointwise"
        sources = None if pointwise else module.source_positions().to(self.device)
        m, ghosts = module.intrinsic_channels, len(made)
        intercept = norm is not None or conv.bias is not None

        def features(batch: Batch, positions: Tensor | None) -> Tensor:
            maps = module.primary_conv(batch.inputs)
            maps = maps if module.intrinsic_act is None else module.intrinsic_act(maps)
            if sources is None:
                return at_positions(maps, positions).double()[None]  # (1, P, m)
            return taps.gather(maps, positions).flatten(0, 1).movedim(1, 0)[sources].double()  # (ghosts, P, taps)

        def shaped(values: Tensor) -> Tensor:
            return values[None] if pointwise else values.T[:, :, None]

        groups, unknowns, targets = (1, m, ghosts) if pointwise else (ghosts, taps.size, 1)
        budget = int(min(self.budget, max(NEIGHBOURS / (groups * unknowns), 4096, 16 * unknowns)))
        system = Moments.zeros(groups, unknowns, targets, self.device, intercept)
        for batch, positions in self.sampled(budget):
            target, _ = self.target(batch, positions)
            system.add(features(batch, positions), shaped(target[:, made]))
        # nothing to be pulled towards but zero, so no more than the number of positions asks for
        solver = system.ridge(self.settings.ridge * system.xx.shape[1] / max(system.count, 1))
        weights = solver(system.cross())
        shift = system.mean_y - (system.mean_x[:, None] @ weights)[:, 0] if intercept else torch.zeros_like(system.y)
        for _ in range(self.settings.rounds if self._acts() else 0):
            products, sums, count = torch.zeros_like(system.xy), torch.zeros_like(system.y), 0
            for batch, positions in self.sampled(budget):
                target, shortcut = self.target(batch, positions)
                x = features(batch, positions)
                given = x @ weights + shift[:, None]
                flat = given[0] if pointwise else given[:, :, 0].T
                lack = shaped(self.missing(target[:, made], flat.float(), shortcut, made).double())
                products += x.mT @ lack
                sums += lack.sum(1)
                count += x.shape[1]
            mean = sums / count if intercept else torch.zeros_like(sums)
            step = solver(products / count - system.mean_x[:, :, None] * mean[:, None], -weights)
            weights = weights + step
            shift = shift + mean - (system.mean_x[:, None] @ step)[:, 0] * intercept
        install_filters(conv, norm, system, weights, shift, self.conv.weight.detach()[made].flatten(1).norm(dim=1))

    def _norm_of(self, part: Any) -> Any:
        return part[1] if self.norm is not None else None

    def _error(self, module: GhostModule) -> float:
        """Squared error of the site's output after its activation, relative to the variance of what it should be."""
        wrong, count = 0.0, 0
        sums = squares = torch.zeros(self.n, dtype=torch.float64, device=self.device)
        outside = self.site.act_name is None
        stride = max(1, math.ceil(self.images / ERROR_IMAGES))
        for index, (batch, positions) in enumerate(self.sampled()):
            if index % stride:
                continue
            given = at_positions(module.eval()(batch.inputs), positions).float()
            if self.sees_image:
                full = self.site.norm(batch.own)  # type: ignore[misc]
                target = at_positions(full if outside or self.site.act is None else self.site.act(full), positions).float()
            else:
                target, _ = self.target(batch, positions)
                if batch.total is None and self.act is not None:
                    target = self.act(target.clone())
                    given = self.act(given) if outside and self.site.act is not None else given
            wrong += float((given - target).double().square().sum())
            sums = sums + target.double().sum(0)
            squares = squares + target.double().square().sum(0)
            count += len(target)
        total = float((squares - sums**2 / max(count, 1)).clamp_min(0).sum())
        return wrong / max(total, 1e-30)

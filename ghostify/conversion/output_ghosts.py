"""Ghost modules in place of convolutions whose width is bound, the outputs of blocks: what there may be, and what it loses."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from ..absorption.output_moments import OutputMoments
from ..graph.sites import Site
from ..layers.cheap_conv import Cheap
from ..surgery.planned import PlannedSite
from ..surgery.source_choice import choose_sources
from .plan import make_plan
from .settings import GhostConfig

COUNTS = 16  # numbers of intrinsic maps that are weighed up for each layer with pointwise ghosts

KINDS: tuple[Cheap, ...] = ("pointwise", "depthwise")


@dataclass(frozen=True)
class OutputGhosts:
    """What a convolution may become.

    Attributes:
        site: the convolution, with no activation of its own.
        options: Ghost modules.
        pinned: whether ``ratios`` says how many of its maps are intrinsic, so that it may not stay.
    """

    site: Site
    options: tuple[PlannedSite, ...]
    pinned: bool

    def losses(self, moments: OutputMoments) -> list[float]:
        """What each option loses, in the unit of the losses of spans.

        Pointwise ghosts are a product of low rank with the intrinsic filters, whose loss the eigenvalues tell. Depthwise ones
        lose at most what their sources, scaled, leave unexplained.
        """
        pointwise, costs = moments.pointwise_loss(), moments.source_costs()
        return [
            float(pointwise[one.intrinsic]) if one.cheap == "pointwise" else _unexplained(costs, one) for one in self.options
        ]


def output_ghosts(sites: Sequence[Site], config: GhostConfig, narrowed: Collection[str]) -> list[OutputGhosts]:
    """The convolutions that may become Ghost modules beside spans that are narrowed.

    Args:
        sites: of the network.
        config: settings, which skip and pin sites as in a conversion to Ghost modules alone.
        narrowed: names of layers that make or carry channels that may go.
    """
    ghosts = []
    for planned in make_plan(sites, replace(config, cheap="auto")):
        site = planned.site
        plain = site.kind == "conv" and site.act is None and site.conv.groups == 1
        if planned.ratio is None or not plain or site.name in narrowed:
            continue
        n = site.conv.out_channels
        pinned = any(fnmatchcase(site.name, pattern) for pattern in config.ratios)
        step = max(config.round_to or 1, -(-n // COUNTS))
        steps = {"pointwise": step, "depthwise": max(step, n // 4)}  # sources are chosen anew for each number of maps
        options = tuple(
            PlannedSite(site, round(n / m, 3), m, kind, config.dw_size)
            for kind in KINDS
            for m in ([planned.intrinsic] if pinned else range(steps[kind], n, steps[kind]))
        )
        ghosts.append(OutputGhosts(site, options, pinned))
    return ghosts


def _unexplained(costs: torch.Tensor, planned: PlannedSite) -> float:
    intrinsic, sources = choose_sources(costs.clone(), planned.intrinsic)
    ghost = torch.ones(len(costs), dtype=torch.bool)
    ghost[intrinsic] = False
    return float(costs[ghost.nonzero()[:, 0], intrinsic[sources]].sum())

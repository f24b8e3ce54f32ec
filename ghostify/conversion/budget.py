"""Budgets: which ratio each site gets so that the whole network keeps to a target."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from torch import nn

from ..common.copying import on_meta
from ..errors import ArgumentError, UnsupportedModelError
from ..graph.sites import Site
from ..inputs.examples import arguments_for
from ..surgery.planned import PlannedSite
from .allocate import Option, allocate
from .plan import make_plan, nothing_to_convert
from .sensitivity_table import Sensitivity
from .settings import GhostConfig
from .site_costs import SiteCosts, measure_costs
from .site_losses import MeasuredLosses, SiteLosses, WeightProxy
from .target import Budget, Target, out_of_reach

log = logging.getLogger(__name__)

LEAST_RATIO = 1.2  # below, a Ghost module saves next to nothing

RATIOS = 24  # that are tried, from the least to the highest

Options = dict[Option, PlannedSite]  # what a site may become


def plan_budget(
    model: nn.Module,
    sites: Sequence[Site],
    config: GhostConfig,
    target: Target,
    sensitivity: Sensitivity | None = None,
    example: object = None,
) -> tuple[list[PlannedSite], Budget]:
    """The plan that keeps to a target at the least loss.

    Args:
        model: the original.
        sites: all of its sites.
        config: settings; sites that ``ratios`` names get what it says, all others are free.
        target: what the whole may cost.
        sensitivity: the loss of each site at each ratio; a proxy from the weights otherwise.
        example: input that FLOPs and latency are counted for.

    Returns:
        What becomes of each site, in their order; and what the target came to.

    Raises:
        ArgumentError: a target out of reach, with the range that is feasible; no input known; a sensitivity that was measured
            on another model or with other settings.
    """
    if sensitivity is None or target.metric == "latency":
        _check_has_values(model, target)
    losses: SiteLosses = WeightProxy() if sensitivity is None else MeasuredLosses(sensitivity, config, model)
    plans = _plans_by_ratio(model, sites, config, losses.most)
    arguments = arguments_for(model, example, "target") if target.metric != "params" else ()
    fixed_sites = [planned for planned in plans[0] if planned.site.reason]
    plans = [[planned for planned in plan if not planned.site.reason] for plan in plans]
    costs = measure_costs(target.metric, model, [planned.site for planned in plans[0]], arguments)
    choices = [_options(by_ratio, config, costs, losses) for by_ratio in zip(*plans, strict=True)]
    picked, budget = _share_out(target, choices, costs, [planned.site for planned in plans[0]], losses.most)
    plan = [options[option] for options, option in zip(choices, picked, strict=True)] + fixed_sites
    order = {site.name: position for position, site in enumerate(sites)}
    plan.sort(key=lambda planned: order[planned.site.name])
    log.info("%s", budget)
    return plan, budget


def _plans_by_ratio(model: nn.Module, sites: Sequence[Site], config: GhostConfig, most: float) -> list[list[PlannedSite]]:
    """The plan of the whole model at each of the ratios that are tried, up to ``most``.

    Raises:
        UnsupportedModelError: none of them converts anything.
    """
    ratios = np.geomspace(LEAST_RATIO, most, RATIOS).tolist()
    plans = [make_plan(sites, replace(config, ratio=ratio)) for ratio in ratios]
    if not any(planned.ratio for plan in plans for planned in plan):
        raise UnsupportedModelError(nothing_to_convert(model, [planned.reason for planned in plans[-1]]))
    return plans


def _options(by_ratio: Sequence[PlannedSite], config: GhostConfig, costs: SiteCosts, losses: SiteLosses) -> Options:
    """What one site may become: a Ghost module of each size that the ratios come to, or what it was."""
    site = by_ratio[0].site
    ghosts = {planned.intrinsic: planned for planned in by_ratio if planned.ratio is not None}
    pinned = _is_pinned(site, config)
    options = {
        Option(intrinsic, costs.ghost(planned), 0.0 if pinned else losses.of(planned)): _exact(planned)
        for intrinsic, planned in ghosts.items()
    }
    if not ghosts or not pinned:
        reason = by_ratio[-1].reason or "kept dense by the target"
        options[Option(0, costs.dense(site), 0.0)] = PlannedSite(site, reason=reason)
    return options


def _share_out(
    target: Target, choices: Sequence[Options], costs: SiteCosts, sites: Sequence[Site], most: float
) -> tuple[list[Option], Budget]:
    """One option for each site, and what the target came to.

    Raises:
        ArgumentError: the target is out of reach.
    """
    fixed = costs.total - sum(costs.dense(site) for site in sites)
    least = fixed + sum(min(option.cost for option in options) for options in choices)
    limit = target.value * costs.total if target.share else target.value
    if not least <= limit < costs.total:
        raise ArgumentError(out_of_reach(target, limit, least, costs.total, f"with ratios up to {most:g}"))
    picked = allocate([list(options) for options in choices], limit - fixed)
    assert picked is not None
    planned = fixed + sum(option.cost for option in picked)
    return picked, Budget(target.metric, limit, costs.total, least, planned)


def _check_has_values(model: nn.Module, target: Target) -> None:
    """Refuse a model without values where they are needed.

    Raises:
        ArgumentError: the model is on the meta device, where there is nothing to run or to guess from.
    """
    if on_meta(model):
        what = "weights to run with" if target.metric == "latency" else "weights to go by: give a sensitivity, or weights"
        raise ArgumentError(f"target={{{target.metric!r}: ...}} needs a model that has {what}; this one is on the meta device")


def _is_pinned(site: Site, config: GhostConfig) -> bool:
    """Whether the settings say what becomes of the site, so that nothing is left to choose."""
    return site.kind == "linear" or any(fnmatchcase(site.name, pattern) for pattern in config.ratios)


def _exact(planned: PlannedSite) -> PlannedSite:
    """The planned site with the ratio that its channels come to, for the report."""
    channels = getattr(planned.site.module, "out_channels", 0)
    return replace(planned, ratio=round(channels / planned.intrinsic, 3)) if planned.site.kind == "conv" else planned

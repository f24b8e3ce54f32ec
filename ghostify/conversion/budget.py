"""Budgets: which ratio each site gets so that the whole network keeps to a target."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch import nn

from ..common.copying import on_meta
from ..common.costs import count_params, measure
from ..errors import ArgumentError, UnsupportedModelError
from ..graph.sites import Site
from ..inputs.examples import arguments_for
from ..surgery.planned import PlannedSite
from .allocate import Option, allocate
from .plan import GhostConfig, make_plan, nothing_to_convert
from .sensitivity_table import Sensitivity
from .site_latency import LatencyCosts
from .site_losses import MeasuredLosses, WeightProxy
from .target import Budget, Target, amount

log = logging.getLogger(__name__)


LEAST = 1.2  # below, a Ghost module saves next to nothing


LEVELS = 24  # ratios between those two


def plan_budget(
    model: nn.Module,
    sites: Sequence[Site],
    config: GhostConfig,
    target: Target,
    sensitivity: Sensitivity | None = None,
    example: Any = None,
) -> tuple[list[PlannedSite], Budget]:
    """The plan that keeps to a target at the least loss.

    Args:
        model: the original.
        sites: all of its sites.
        config: settings; sites that ``ratios`` names get what it says, all others are free.
        target: what the whole may cost.
        sensitivity: the loss of each site at each ratio; a proxy from the weights otherwise.
        example: input that FLOPs and latency are counted for.

    Raises:
        ArgumentError: a target out of reach, with the range that is feasible; no input known; a sensitivity that was measured
            on another model or with other settings.
    """
    if sensitivity is None or target.metric == "latency":
        _check_has_values(model, target)
    losses = WeightProxy() if sensitivity is None else MeasuredLosses(sensitivity, config, model)
    ratios = np.geomspace(LEAST, losses.most, LEVELS).tolist()
    plans = [make_plan(sites, replace(config, ratio=ratio)) for ratio in ratios]
    if not any(planned.ratio for plan in plans for planned in plan):
        raise UnsupportedModelError(nothing_to_convert(model, [planned.reason for planned in plans[-1]]))
    arguments = arguments_for(model, example, "target") if target.metric != "params" else ()
    fixed_sites = [planned for planned in plans[0] if planned.site.reason]
    plans = [[planned for planned in plan if not planned.site.reason] for plan in plans]
    convs = [planned.site for planned in plans[0]]
    costs = COSTS[target.metric](model, convs, arguments)
    choices: list[dict[Option, PlannedSite]] = []
    for ways in zip(*plans, strict=True):
        site = ways[0].site
        found = {p.intrinsic: p for p in ways if p.ratio is not None}
        pinned = _is_pinned(site, config)
        options = {Option(m, costs.ghost(p), 0.0 if pinned else losses.of(p)): _exact(p) for m, p in found.items()}
        if not found or not pinned:
            options[Option(0, costs.dense(site), 0.0)] = PlannedSite(site, reason=ways[-1].reason or "kept dense by the target")
        choices.append(options)
    fixed = costs.total - sum(costs.dense(site) for site in convs)
    least = fixed + sum(min(option.cost for option in options) for options in choices)
    limit = target.value * costs.total if target.share else target.value
    if not least <= limit < costs.total:
        raise ArgumentError(_out_of_reach(target, limit, least, costs.total, losses.most))
    picked = allocate([list(options) for options in choices], limit - fixed)
    assert picked is not None
    plan = [options[option] for options, option in zip(choices, picked, strict=True)] + fixed_sites
    order = {site.name: position for position, site in enumerate(sites)}
    plan.sort(key=lambda planned: order[planned.site.name])
    budget = Budget(target.metric, limit, costs.total, least, fixed + sum(option.cost for option in picked))
    log.info("%s", budget)
    return plan, budget


def _check_has_values(model: nn.Module, target: Target) -> None:
    if on_meta(model):
        what = "weights to run with" if target.metric == "latency" else "weights to go by: give a sensitivity, or weights"
        raise ArgumentError(f"target={{{target.metric!r}: ...}} needs a model that has {what}; this one is on the meta device")


def _is_pinned(site: Site, config: GhostConfig) -> bool:
    """Whether the settings say what becomes of it, so that nothing is left to choose."""
    return site.kind == "linear" or any(fnmatchcase(site.name, pattern) for pattern in config.ratios)


def _exact(planned: PlannedSite) -> PlannedSite:
    """With the ratio that its channels come to, for the report."""
    channels = getattr(planned.site.module, "out_channels", 0)
    return replace(planned, ratio=round(channels / planned.intrinsic, 3)) if planned.site.kind == "conv" else planned


def _out_of_reach(target: Target, limit: float, least: float, original: float, most: float) -> str:
    told = [amount(target.metric, value) for value in (limit, least, original)]
    share = f" ({target.value:g} of the original's)" if target.share else ""
    return (
        f"target {target.metric} {told[0]}{share} is out of reach: with ratios up to {most:g} the model comes to between "
        f"{told[1]} ({least / original:.3f}) and below {told[2]} (1.000)"
    )


class FlopCosts:
    """Multiply-adds of each site, of all its calls."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: tuple[Any, ...]):
        measured = measure(model, arguments, [site.name for site in sites])
        self.total, self.positions = measured.flops, measured.positions

    def dense(self, site: Site) -> int:
        return self.positions.get(site.name, 0) * _weights(site)

    def ghost(self, planned: PlannedSite) -> int:
        return self.positions.get(planned.site.name, 0) * _ghost_weights(planned)


class ParamCosts:
    """Parameters of each site's layers. Norms and biases keep their number, whichever part has them."""

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: tuple[Any, ...]):
        self.total = count_params(model)

    def dense(self, site: Site) -> int:
        return _weights(site)

    def ghost(self, planned: PlannedSite) -> int:
        return _ghost_weights(planned)


COSTS: dict[str, Any] = {"flops": FlopCosts, "params": ParamCosts, "latency": LatencyCosts}


def _weights(site: Site) -> int:
    return int(site.module.weight.numel())


def _ghost_weights(planned: PlannedSite) -> int:
    """Weights of what takes a site's place: multiply-adds for each output position, too."""
    layer: Any = planned.site.module
    m = planned.intrinsic
    if planned.site.kind == "linear":
        return m * (layer.in_features + layer.out_features)
    per_map = layer.weight.numel() // layer.out_channels
    each = m if planned.cheap == "pointwise" else planned.dw_size ** len(layer.kernel_size)
    return m * per_map + (layer.out_channels - m) * each

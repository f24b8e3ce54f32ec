"""Budgets: which ratio each site gets so that the whole network keeps to a target."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch import nn

from .allocate import Option, allocate
from .checks import check_choice
from .copying import on_meta
from .costs import count_params, measure
from .errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from .plan import GhostConfig, PlannedSite, make_plan, nothing_to_convert
from .sensitivity_result import Sensitivity
from .site_latency import LatencyCosts
from .site_losses import MeasuredLosses, WeightProxy
from .sites import Site
from .zoo import arguments_for

log = logging.getLogger(__name__)

METRICS = ("flops", "params", "latency")
LEAST = 1.2  # below, a Ghost module saves next to nothing
LEVELS = 24  # ratios between those two


@dataclass(frozen=True)
class Target:
    """What a student may cost: ``value`` of ``metric``, a share of the original's where ``share``, else multiply-adds,
    parameters or seconds."""

    metric: str
    value: float
    share: bool

    @classmethod
    def parse(cls, target: Any) -> "Target":
        """From ``{"flops": 0.5}``, ``{"params": "5M"}``, ``{"latency": "12ms"}``.

        Raises:
            ArgumentError, ArgumentTypeError: another form; the message gives the right ones.
        """
        if not isinstance(target, Mapping):
            raise ArgumentTypeError(f'target must be of the form {{"flops": 0.5}}, not {target!r}')
        if len(target) != 1:
            raise ArgumentError(f"target must have one of {', '.join(map(repr, METRICS))}, not {len(target)}: {dict(target)!r}")
        metric, value = next(iter(target.items()))
        check_choice("target", metric, METRICS)
        units = _TIMES if metric == "latency" else _COUNTS
        number = value
        if isinstance(value, str):
            match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", value)
            try:
                number = float(match[1]) * units[match[2]] if match else math.nan
            except (KeyError, ValueError):
                number = math.nan
            if match and match[2] and number == number:
                return cls(metric, number, share=False)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < math.inf:
            forms = "0.5, '12ms'" if metric == "latency" else "0.5, 2e9, '2G'"
            raise ArgumentError(f"target[{metric!r}] must be of a form such as {forms}, not {value!r}")
        if 1 <= number < _LEAST_COUNT or (metric == "latency" and number >= 1):
            other = "a time such as '12ms'" if metric == "latency" else f"a number of {metric} such as 2e9 or '2G'"
            raise ArgumentError(f"target[{metric!r}] must be a share below 1, or {other}, not {value!r}")
        return cls(metric, float(number), share=number < 1)


_LEAST_COUNT = 100  # what is smaller was meant to be a share
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_TIMES = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Budget:
    """What a target came to.

    Attributes:
        metric: ``"flops"``, ``"params"`` or ``"latency"``.
        limit: multiply-adds, parameters or seconds.
        original: of the original.
        least: the least that is feasible, with the highest ratio everywhere.
        planned: what the student was planned to cost; no more than ``limit``.
    """

    metric: str
    limit: float
    original: float
    least: float
    planned: float

    def __str__(self) -> str:
        planned, limit, least, original = (
            amount(self.metric, v) for v in (self.planned, self.limit, self.least, self.original)
        )
        return f"{self.metric} {planned}, at most {limit} (feasible {least} to {original})"


def amount(metric: str, value: float) -> str:
    """1.5e9 as 1.5G, 0.012 seconds as 12ms."""
    if metric == "latency":
        return f"{value * 1e3:.3g}ms"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.0f}"


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

"""Budgets of networks whose spans are narrowed: how many channels each keeps, so that the whole keeps to a target."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from torch import nn

from ..common.calls import PositionalArguments
from ..common.copying import on_meta
from ..errors import ArgumentError, UnsupportedModelError
from ..graph.sites import Site
from ..graph.spans import Span
from ..graph.tracing import Part
from ..inputs.examples import arguments_for, example_input
from ..surgery.planned import PlannedSite, PlannedSpan
from .goal import ConversionGoal
from .layer_seconds import LayerSeconds
from .network_plan import NetworkPlan
from .output_ghosts import OutputGhosts, output_ghosts
from .plan import check_patterns, nothing_to_convert
from .settings import GhostConfig
from .site_costs import cheap_weights, measure_costs
from .site_losses import check_weights
from .span_allocation import best_answer
from .span_losses import SpanLosses, losses_by_weights, losses_of_table
from .span_plan import pins_of, plan_layers, plan_span, width_step
from .span_survey import HeldImages, held_images, losses_by_images, moments_by_images
from .target import Budget, Target, out_of_reach
from .width_costs import width_costs
from .width_network import Choice, WidthNetwork

log = logging.getLogger(__name__)

DENSE = "kept dense by the target"

UNREACHED = "no image reached all layers that read its maps"


def plan_span_budget(
    model: nn.Module,
    sites: Sequence[Site],
    spans: Sequence[Span],
    parts: Sequence[Part],
    config: GhostConfig,
    goal: ConversionGoal,
) -> NetworkPlan:
    """The plan that keeps to a target at the least loss.

    Args:
        model: the original.
        sites: its layers.
        spans: all of its spans.
        parts: of the model that trace.
        config: settings; spans that ``ratios`` names keep what it says, all others are free.
        goal: the target, and what tells the losses of spans: images, a sensitivity of one pass, or, with neither, weights. For
            ``cheap="auto"`` it has images, and convolutions whose width is bound may become Ghost modules.

    Raises:
        ArgumentError: a target out of reach, with the range that is feasible; no input known; images that can't be used; a
            sensitivity of another model, or one that was measured site by site.
        UnsupportedModelError: no span can be narrowed, nor a Ghost module be made.
    """
    target = goal.target
    assert target is not None
    if target.metric == "latency" and goal.seconds is None:
        both = " and images" if config.cheap == "auto" else ""
        aim = "aim at flops or params here, or call ghostify.compress"
        raise ArgumentError(f"target latency does not go with cheap={config.cheap!r}{both}: {aim}")
    check_patterns(sites, config)
    by_name = {site.name: site for site in sites}
    narrowest = [_narrowest(span, by_name, config) for span in spans]
    around = {name for planned in narrowest if planned.reason is None for name in _made_and_carried(planned.span)}
    ghosts = output_ghosts(sites, config, around) if config.cheap == "auto" else []
    if all(planned.reason for planned in narrowest) and not ghosts:
        raise UnsupportedModelError(nothing_to_convert(model, [planned.reason for planned in narrowest]))
    with ExitStack() as stack:
        held = None if goal.images is None else stack.enter_context(held_images(model, goal.images))
        if held is not None and held.warning is not None:
            warnings.warn(held.warning, stacklevel=5)  # for the line that calls convert
        share = _ShareOut(model, sites, narrowest, ghosts, config, target, _arguments(model, goal, held), goal.seconds)
        share.check_reach()  # what is out of reach is so before images are run
        losses = _losses(model, sites, [planned.span for planned in share.free], parts, config, goal, held)
        moments = {} if held is None else moments_by_images(held, [one.site.name for one in ghosts], parts)
    plan = share.plan(losses, {one.site.name: one.losses(moments[one.site.name]) for one in ghosts if one.site.name in moments})
    log.info("%s", plan.budget)
    return plan


def _made_and_carried(span: Span) -> set[str]:
    return {*span.makers, *(use.target for use in span.carriers)}


def _narrowest(span: Span, sites: Mapping[str, Site], config: GhostConfig) -> PlannedSpan:
    """A span with as few channels as it may keep, or as many as the settings say."""
    return plan_span(span, sites, replace(config, ratio=float(max(2, span.channels))))


def _arguments(model: nn.Module, goal: ConversionGoal, held: HeldImages | None) -> PositionalArguments:
    """The arguments of the forward pass that costs are counted for: those of an image where no others are known."""
    assert goal.target is not None
    if goal.target.metric == "params" or goal.seconds is not None:
        return ()
    if held is not None and goal.example_input is None and example_input(model) is None:
        return held.example
    return arguments_for(model, goal.example_input, "target")


def _losses(
    model: nn.Module,
    sites: Sequence[Site],
    spans: Sequence[Span],
    parts: Sequence[Part],
    config: GhostConfig,
    goal: ConversionGoal,
    held: HeldImages | None,
) -> SpanLosses:
    """What each span loses: by images, by a sensitivity, or by weights.

    Raises:
        ArgumentError: a sensitivity of other weights or of another kind; or a model without values where those are needed.
    """
    if held is not None:
        return losses_by_images(held, spans, parts, config.seed, goal.progress)
    if goal.sensitivity is None:
        if on_meta(model):
            raise ArgumentError("target needs a model that has weights to go by; this one is on the meta device")
        return losses_by_weights(model, spans, sites)
    if not goal.sensitivity.curves:
        raise ArgumentError("sensitivity was measured site by site, with Ghost modules: measure it with method='one_pass'")
    check_weights(goal.sensitivity, model)
    return losses_of_table(goal.sensitivity)


class _ShareOut:
    """A target, shared out over the spans of a network.

    Args:
        model: the original.
        sites: its layers.
        narrowest: its spans; those that are free with as few channels as they may keep.
        ghosts: convolutions that may become Ghost modules.
        config: settings.
        target: what the whole may cost.
        arguments: of the forward pass that costs are counted for.
        seconds: of layers, for a target of latency.

    Attributes:
        changing: the spans of which channels may go.
        free: those of them whose channels are to be chosen.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        narrowest: Sequence[PlannedSpan],
        ghosts: Sequence[OutputGhosts],
        config: GhostConfig,
        target: Target,
        arguments: PositionalArguments,
        seconds: LayerSeconds | None = None,
    ):
        self.model, self.sites, self.narrowest, self.config, self.target = model, sites, narrowest, config, target
        self.arguments, self.ghosts = arguments, ghosts
        self.changing = [planned for planned in narrowest if planned.reason is None]
        self.free = [planned for planned in self.changing if not pins_of(planned.span, config)]
        names = [one.site.name for one in ghosts]
        spans = [planned.span for planned in self.changing]
        self.costs = width_costs(target.metric, model, spans, arguments, names, seconds)
        self.site_costs = measure_costs(target.metric, model, [one.site for one in ghosts], arguments) if ghosts else None
        self.limit = target.value * self.costs.total if target.share else target.value
        self.saved = self._saved(narrowest)  # whatever becomes of spans

    def check_reach(self) -> None:
        """Refuse a target that even the narrowest spans do not keep to.

        Raises:
            ArgumentError: it is out of reach.
        """
        sites = [self._site_choices(one, [0.0] * len(one.options)) for one in self.ghosts]
        self._check(WidthNetwork([*([_choice(planned.kept)] for planned in self.changing), *sites], self.costs.layers))

    def plan(self, losses: SpanLosses, site_losses: Mapping[str, Sequence[float]]) -> NetworkPlan:
        """The plan of least loss.

        Args:
            losses: of spans.
            site_losses: of each option of the convolutions that may become Ghost modules; others stay.

        Raises:
            ArgumentError: the target is out of reach, since no image reached some spans.
        """
        sites = [self._site_choices(one, site_losses.get(one.site.name)) for one in self.ghosts]
        network = WidthNetwork([*(self._choices(planned, losses) for planned in self.changing), *sites], self.costs.layers)
        least = self._check(network)
        best = best_answer(network, self._summed(self.limit + self.saved))
        assert best is not None
        widths = {
            planned.name: int(network.gives[row, choice])
            for row, (planned, choice) in enumerate(zip(self.changing, best.picked, strict=False))
        }
        picked = [int(choice) for choice in best.picked[len(self.changing) :]]
        chosen = {one.site.name: _option(one, choice) for one, choice in zip(self.ghosts, picked, strict=True)}
        spans = [self._planned(planned, widths, losses) for planned in self.narrowest]
        cost = self._whole(best.cost) - self._saved(spans)
        budget = Budget(self.target.metric, self.limit, self.costs.total, least, cost)
        layers = [
            _with_ghost(planned, chosen.get(planned.site.name)) for planned in plan_layers(self.sites, spans, self.config)
        ]
        return NetworkPlan(layers, spans, budget)

    def _site_choices(self, one: OutputGhosts, losses: Sequence[float] | None) -> list[Choice]:
        """What a convolution may become; it stays where nothing is known of its losses."""
        n = one.site.conv.out_channels
        stays = [] if one.pinned else [_choice(n)]
        if losses is None and not one.pinned:
            return stays
        losses = [0.0] * len(one.options) if losses is None else losses
        assert self.site_costs is not None
        weight = self.site_costs.dense(one.site) / one.site.weighted.weight.numel()  # what one weight costs
        return stays + [
            Choice(weight * (n - ghost.intrinsic) * cheap_weights(ghost), loss, n, ghost.intrinsic)
            for ghost, loss in zip(one.options, losses, strict=True)
        ]

    def _choices(self, planned: PlannedSpan, losses: SpanLosses) -> list[Choice]:
        span = planned.span
        if planned not in self.free:
            return [_choice(planned.kept)]
        if planned.name not in losses:
            return [_choice(span.channels)]
        step = math.lcm(span.groups, width_step(span, self.config))
        counts = dict.fromkeys([*range(planned.kept, span.channels, step), span.channels])
        return [_choice(m, float(losses[planned.name][m])) for m in counts if np.isfinite(losses[planned.name][m])]

    def _planned(self, planned: PlannedSpan, widths: Mapping[str, int], losses: SpanLosses) -> PlannedSpan:
        """A span with the channels that the answer gives it."""
        span = planned.span
        if planned not in self.free:
            return planned
        kept = widths[planned.name]
        if kept < span.channels:
            return PlannedSpan(span, kept, round(span.channels / kept, 3))
        return PlannedSpan(span, kept, reason=DENSE if planned.name in losses else UNREACHED)

    def _check(self, network: WidthNetwork) -> float:
        """What the network costs at least.

        Raises:
            ArgumentError: the target is out of reach.
        """
        least = self._whole(network.cheapest().cost) - self.saved
        if not least <= self.limit < self.costs.total:
            how = "with as few channels as spans may keep" + (" and Ghost modules" if self.ghosts else "")
            raise ArgumentError(out_of_reach(self.target, self.limit, least, self.costs.total, how))
        return least

    def _whole(self, cost: float) -> float:
        """A cost that was summed up in floats; multiply-adds and params are whole numbers."""
        return cost if self.target.metric == "latency" else round(cost)

    def _summed(self, limit: float) -> float:
        """A limit for costs that are summed up in floats."""
        return limit * (1 + 1e-9) if self.target.metric == "latency" else math.floor(limit) + 0.5

    def _saved(self, spans: Sequence[PlannedSpan]) -> float:
        """What fully connected layers that get a smaller rank save."""
        reduced = [planned for planned in plan_layers(self.sites, spans, self.config) if planned.ratio is not None]
        if not reduced:
            return 0
        costs = measure_costs(self.target.metric, self.model, [planned.site for planned in reduced], self.arguments)
        return sum(costs.dense(planned.site) - costs.ghost(planned) for planned in reduced)


def _option(one: OutputGhosts, choice: int) -> PlannedSite | None:
    """The Ghost module that a choice stands for; None where the convolution stays."""
    position = choice if one.pinned else choice - 1
    return one.options[position] if position >= 0 else None


def _with_ghost(planned: PlannedSite, ghost: PlannedSite | None) -> PlannedSite:
    return planned if ghost is None else replace(ghost, absorbed=planned.absorbed)


def _choice(kept: int, loss: float = 0.0) -> Choice:
    return Choice(0.0, loss, kept, kept)

"""Which span keeps how many of its channels: globs, the default skips, and spans that are too small."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ..errors import ArgumentError
from ..graph.sites import TRANSPOSED, Site
from ..graph.spans import Span
from ..layers.convolution import is_transposed
from ..layers.ratios import intrinsic_channels
from ..surgery.narrowing import layers_around
from ..surgery.planned import PlannedSite, PlannedSpan
from .plan import make_plan
from .settings import SKIPS, GhostConfig

UNTOUCHED = "all of its maps stay, and so do those that it reads"


def plan_spans(spans: Sequence[Span], sites: Mapping[str, Site], config: GhostConfig) -> list[PlannedSpan]:
    """Decide how many channels of each span stay.

    Args:
        spans: of the network.
        sites: its layers by name.
        config: settings; ``ratios`` name spans by the layers that make their maps.

    Raises:
        ArgumentError: ``ratios`` asks two things of one span.
    """
    return [plan_span(span, sites, config) for span in spans]


def ignored_settings(spans: Sequence[Span], config: GhostConfig) -> list[str]:
    """Sentences on settings that change nothing where ghosts are absorbed."""
    told = []
    if config.dw_size != GhostConfig.dw_size:
        told.append(f"dw_size={config.dw_size} changes nothing: absorbed ghosts have no cheap operation")
    reasons = {maker: span.reason for span in spans for maker in span.makers if span.reason}
    named = [name for name, ratio in config.ratios.items() if ratio is not None and name in reasons]
    return told + [f"ratios[{name!r}] changes nothing: {reasons[name]}" for name in named]


def plan_span(span: Span, sites: Mapping[str, Site], config: GhostConfig) -> PlannedSpan:
    """Decide how many channels of one span stay.

    Raises:
        ArgumentError: ``ratios`` asks two things of the span.
    """
    if span.reason:
        return PlannedSpan(span, span.channels, reason=span.reason)
    ratio: float | None = config.ratio
    if pinned := pins_of(span, config):
        ratio = pinned[0]
        if ratio is None:
            return PlannedSpan(span, span.channels, reason="kept dense by ratios")
    if not any(name in config.ratios for name in span.makers):  # asked for by its full name: the default skips give way
        reason = _skipped(span, sites, config)
        if reason is not None:
            return PlannedSpan(span, span.channels, reason=reason)
    assert ratio is not None
    kept = intrinsic_channels(span.channels, float(ratio), span.groups, width_step(span, config))
    if kept >= span.channels:
        few = f"too few channels to save anything: {span.channels} in {span.groups} groups at ratio {ratio:g}"
        return PlannedSpan(span, span.channels, reason=few)
    return PlannedSpan(span, kept, float(ratio))


def pins_of(span: Span, config: GhostConfig) -> list[float | None]:
    """What ``ratios`` says of a span: nothing, or one ratio or None.

    Raises:
        ArgumentError: it says two things of layers that make the maps together.
    """
    asked = {name: _last_match(name, config) for name in span.makers}
    pins = {name: pattern for name, pattern in asked.items() if pattern is not None}
    wanted = {config.ratios[pattern] for pattern in pins.values()}
    if len(wanted) > 1:
        told = ", ".join(f"{name!r}: {config.ratios[pattern]}" for name, pattern in pins.items())
        raise ArgumentError(f"ratios asks two things of layers that make the same maps, which keep equally many: {told}")
    return list(wanted)


def width_step(span: Span, config: GhostConfig) -> int:
    """Of what number the channels that stay are a multiple: ``round_to``, or what suits processors."""
    if config.round_to is not None:
        return config.round_to
    return next(step for least, step in FAST_WIDTHS if span.channels >= least)


FAST_WIDTHS = ((64, 8), (16, 4), (0, 1))
"""From how many channels on which multiples are fast, where the user does not say."""


def plan_layers(sites: Sequence[Site], spans: Sequence[PlannedSpan], config: GhostConfig) -> list[PlannedSite]:
    """What becomes of each layer of a network whose spans are narrowed.

    It gets narrower, or has a reason why it does not; fully connected layers that no span reaches may get a smaller rank.

    Args:
        sites: the layers.
        spans: all spans, planned.
        config: settings, of which ``linear_ratio`` is used.
    """
    narrower = absorbed_layers(spans)
    why = {name: span.reason for span in spans if span.reason for name in span.span.makers}
    plan = []
    for planned in make_plan(sites, replace(config, ratios={})):
        site = planned.site
        if site.name in narrower:
            plan.append(PlannedSite(site, absorbed=True))
        elif site.kind == "linear" and planned.ratio is not None:
            plan.append(planned)
        elif site.kind == "conv":
            own = None if site.reason == TRANSPOSED and is_transposed(site.module) else site.reason
            plan.append(PlannedSite(site, reason=own or why.get(site.name) or UNTOUCHED))
    listed = {planned.site.name for planned in plan}
    plan += [PlannedSite(site, absorbed=True) for site in sites if site.name in narrower - listed]
    order = {site.name: position for position, site in enumerate(sites)}
    return sorted(plan, key=lambda planned: order[planned.site.name])


def absorbed_layers(spans: Sequence[PlannedSpan]) -> set[str]:
    """The qualified names of the layers that get narrower."""
    return {name for planned in spans if planned.reason is None for name in layers_around(planned.span)}


def _last_match(name: str, config: GhostConfig) -> str | None:
    return next((pattern for pattern in list(config.ratios)[::-1] if fnmatchcase(name, pattern)), None)


def _skipped(span: Span, sites: Mapping[str, Site], config: GhostConfig) -> str | None:
    """Why the default skips leave the span as it is."""
    roles = [sites[name].roles if name in sites else frozenset() for name in span.makers]
    for role in config.skip:
        if any(role in known for known in roles) if role == "first" else all(role in known for known in roles):
            return SKIPS[role]
    if span.channels < config.min_channels:
        return f"too few channels to save anything: {span.channels}"
    return None

"""Which site gets which ratio: globs, the default skips, and layers that are too small."""

import difflib
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..errors import ArgumentError
from ..graph.sites import Site
from ..layers.cheap_conv import Cheap
from ..layers.ratios import intrinsic_channels
from ..layers.reduced_linear import reduced_rank
from ..surgery.planned import PlannedSite
from .settings import SKIPS, GhostConfig


def make_plan(sites: Sequence[Site], config: GhostConfig) -> list[PlannedSite]:
    """Decide what becomes of each site.

    Returns:
        The convolutions, converted or with the reason why not, and the fully connected layers that get a smaller rank.

    Raises:
        ArgumentError: a key of ``ratios`` that matches no site.
    """
    check_patterns(sites, config)
    planned = [_plan_site(site, config) for site in sites]
    return [p for p in planned if p.site.kind == "conv" or p.ratio is not None]


def check_patterns(sites: Sequence[Site], config: GhostConfig) -> None:
    """Refuse ``ratios`` that mean no layer.

    Raises:
        ArgumentError: a key that matches no site.
    """
    names = [site.name for site in sites]
    for pattern in config.ratios:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            hint = f"close names: {', '.join(close)}" if close else "ghostify.report lists the names"
            raise ArgumentError(f"ratios[{pattern!r}] matches no convolution or fully connected layer; {hint}")


def _plan_site(site: Site, config: GhostConfig) -> PlannedSite:
    if site.reason:
        return PlannedSite(site, reason=site.reason)
    ratio: float | None = config.ratio if site.kind == "conv" else config.linear_ratio
    matching = [pattern for pattern in config.ratios if fnmatchcase(site.name, pattern)]
    named = site.name in matching  # asked for by its full name: the default skips give way
    if matching and (named or ratio is not None):
        ratio = config.ratios[matching[-1]]
        if ratio is None:
            return PlannedSite(site, reason="kept dense by ratios")
    if site.kind == "linear":
        return _plan_linear(site, None if "last" in site.roles and not named else ratio)
    if not named:
        for role in config.skip:
            if role in site.roles:
                return PlannedSite(site, reason=SKIPS[role])
        if site.conv.out_channels < config.min_channels:
            return PlannedSite(site, reason=f"too few channels to save anything: {site.conv.out_channels}")
    assert ratio is not None  # a convolution has the general ratio, or one of its own
    return _plan_conv(site, float(ratio), config)


def _plan_linear(site: Site, ratio: float | None) -> PlannedSite:
    if ratio is None:
        return PlannedSite(site, reason="kept dense: the last classifier layer" if "last" in site.roles else None)
    rank = reduced_rank(site.linear.in_features, site.linear.out_features, ratio)
    return PlannedSite(site, float(ratio), rank)


def _plan_conv(site: Site, ratio: float, config: GhostConfig) -> PlannedSite:
    conv = site.conv
    n, groups = conv.out_channels, conv.groups
    m = intrinsic_channels(n, ratio, groups, config.round_to or 1)
    if m >= n:
        return PlannedSite(site, reason=f"too few channels to save anything: {n} in {groups} groups at ratio {ratio:g}")
    per_map = conv.in_channels // groups * math.prod(conv.kernel_size)  # multiply-adds of the dense layer, per position
    costs: dict[Cheap, int] = {"depthwise": config.dw_size ** len(conv.kernel_size), "pointwise": m}
    if config.cheap == "auto":
        # across all maps where that is nearly free, as it is for kernels of 3x3 and more; calibrate revisits it with data
        cheap: Cheap = "pointwise" if costs["pointwise"] * 8 <= per_map else "depthwise"
    else:
        cheap = "pointwise" if config.cheap == "pointwise" else "depthwise"
    if costs[cheap] >= per_map:
        return PlannedSite(
            site, reason=f"too few channels to save anything: a ghost map costs {costs[cheap]}, a dense one {per_map}"
        )
    return PlannedSite(site, ratio, m, cheap, config.dw_size)


def nothing_to_convert(model: object, reasons: Sequence[str | None]) -> str:
    """The error's message for a model of which no site can be converted, with the reason that one of its sites has."""
    state = f"none of its {len(reasons)} convolutions can be converted" if reasons else "it has no convolutions"
    telling = [reason for reason in reasons if reason != SKIPS["first"]] or list(reasons)
    example = f" ({telling[0]})" if telling else ""
    return f"model {type(model).__name__} has nothing to convert: {state}{example}"

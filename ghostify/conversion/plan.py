"""Which site gets which ratio: settings, globs and the default skips."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..common.checks import check_choice, whole_number
from ..errors import ArgumentError, ArgumentTypeError
from ..graph.sites import Site
from ..layers.ghost_module import Cheap
from ..layers.ratios import check_dw_size, check_ratio, intrinsic_channels
from ..layers.reduced_linear import reduced_rank
from ..surgery.planned import PlannedSite

SKIPS = {
    "first": "first convolution: the paper keeps it (skip=() converts it too)",
    "pooled": "works on a globally pooled 1x1 map: no FLOPs to save (skip=('first',) converts it too)",
    "last": "gives the network's outputs, which don't follow from each other (skip=('first', 'pooled') converts it too)",
}


@dataclass(frozen=True)
class GhostConfig:
    """The settings of a conversion, checked when they are made. :func:`ghostify.convert` explains each of them."""

    ratio: float = 2
    dw_size: int = 3
    cheap: str = "depthwise"
    ratios: Mapping[str, float | None] = field(default_factory=dict)
    linear_ratio: float | None = None
    skip: Sequence[str] = tuple(SKIPS)
    min_channels: int = 8
    round_to: int | None = None
    init: str = "warm"
    seed: int = 0

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_dw_size(self.dw_size)
        check_choice("cheap", self.cheap, ("depthwise", "pointwise", "auto"))
        check_choice("init", self.init, ("warm", "random"))
        if not isinstance(self.ratios, Mapping):
            raise ArgumentTypeError(f"ratios must map names or globs to ratios, not {self.ratios!r}")
        for pattern, ratio in self.ratios.items():
            if not isinstance(pattern, str):
                raise ArgumentTypeError(f"ratios must have names or globs as keys, not {pattern!r}")
            if ratio is not None:
                check_ratio(ratio, f"ratios[{pattern!r}]")
        if self.linear_ratio is not None:
            check_ratio(self.linear_ratio, "linear_ratio")
        if isinstance(self.skip, str) or not isinstance(self.skip, Sequence):
            raise ArgumentTypeError(f"skip must be a sequence of {', '.join(map(repr, SKIPS))}, not {self.skip!r}")
        for role in self.skip:
            check_choice("skip", role, tuple(SKIPS))
        for name, least in (("min_channels", 1), ("round_to", 1), ("seed", 0)):
            if getattr(self, name) is not None or name != "round_to":
                # a plain int, which the recipe's JSON can hold
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratios": dict(self.ratios), "skip": list(self.skip)}


def make_plan(sites: Sequence[Site], config: GhostConfig) -> list[PlannedSite]:
    """Decide for each site; convolutions always appear, fully connected layers where the settings ask for them.

    Raises:
        ArgumentError: a key of ``ratios`` that matches no site.
    """
    names = [site.name for site in sites]
    for pattern in config.ratios:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            hint = f"close names: {', '.join(close)}" if close else "ghostify.report lists the names"
            raise ArgumentError(f"ratios[{pattern!r}] matches no convolution or fully connected layer; {hint}")
    planned = [_plan_site(site, config) for site in sites]
    return [p for p in planned if p.site.kind == "conv" or p.ratio is not None]


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
        if site.module.out_channels < config.min_channels:
            return PlannedSite(site, reason=f"too few channels to save anything: {site.module.out_channels}")
    assert ratio is not None  # a convolution has the general ratio, or one of its own
    return _plan_conv(site, float(ratio), config)


def _plan_linear(site: Site, ratio: float | None) -> PlannedSite:
    if ratio is None:
        return PlannedSite(site, reason="kept dense: the last classifier layer" if "last" in site.roles else None)
    rank = reduced_rank(site.module.in_features, site.module.out_features, ratio)
    return PlannedSite(site, float(ratio), rank)


def _plan_conv(site: Site, ratio: float, config: GhostConfig) -> PlannedSite:
    conv: Any = site.module
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
    """The error's sentence."""
    found = f"none of its {len(reasons)} convolutions can be" if reasons else "it has no convolutions"
    other = [reason for reason in reasons if reason != SKIPS["first"]] or list(reasons)
    first = f" ({other[0]})" if other else ""
    return f"model {type(model).__name__} has nothing to convert: {found}{' converted' if reasons else ''}{first}"

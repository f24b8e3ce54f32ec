"""What each site costs, dense and as a Ghost module, by the metric of a target."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

from ..common.calls import PositionalArguments
from ..common.costs import count_params, measure
from ..graph.sites import Site
from ..surgery.planned import PlannedSite
from .site_latency import LatencyCosts


class SiteCosts(Protocol):
    """Costs in one unit: multiply-adds, parameters or seconds. ``total`` is the whole original's."""

    total: float

    def dense(self, site: Site) -> float:
        """What the original's layers at a site cost."""

    def ghost(self, planned: PlannedSite) -> float:
        """What takes their place costs."""


class FlopCosts:
    """Multiply-adds of each site, of all its calls in one forward pass."""

    total: float

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: PositionalArguments):
        costs = measure(model, arguments, [site.name for site in sites])
        self.total, self.positions = costs.flops, costs.positions

    def dense(self, site: Site) -> float:
        return self.positions.get(site.name, 0) * _weights(site)

    def ghost(self, planned: PlannedSite) -> float:
        return self.positions.get(planned.site.name, 0) * _ghost_weights(planned)


class ParamCosts:
    """Parameters of each site's layers. Norms and biases keep their number, whichever part has them."""

    total: float

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: PositionalArguments):
        self.total = count_params(model)

    def dense(self, site: Site) -> float:
        return _weights(site)

    def ghost(self, planned: PlannedSite) -> float:
        return _ghost_weights(planned)


def measure_costs(metric: str, model: nn.Module, sites: Sequence[Site], arguments: PositionalArguments) -> SiteCosts:
    """The costs of a model by ``"flops"``, ``"params"`` or ``"latency"``.

    Args:
        metric: of the target.
        model: the original.
        sites: whose costs will be asked for.
        arguments: of a forward pass; not needed for params.
    """
    return _COSTS[metric](model, sites, arguments)


_COSTS: dict[str, Callable[[nn.Module, Sequence[Site], PositionalArguments], SiteCosts]] = {
    "flops": FlopCosts,
    "params": ParamCosts,
    "latency": LatencyCosts,
}


def _weights(site: Site) -> int:
    return int(site.weighted.weight.numel())


def _ghost_weights(planned: PlannedSite) -> int:
    """Weights of what takes a site's place, which are its multiply-adds for each output position, too."""
    m = planned.intrinsic
    if planned.site.kind == "linear":
        linear = planned.site.linear
        return m * (linear.in_features + linear.out_features)
    conv = planned.site.conv
    per_map = conv.weight.numel() // conv.out_channels
    return m * per_map + (conv.out_channels - m) * cheap_weights(planned)


def cheap_weights(planned: PlannedSite) -> int:
    """Weights of the cheap operation for each ghost map of a convolution."""
    conv = planned.site.conv
    return planned.intrinsic if planned.cheap == "pointwise" else planned.dw_size ** len(conv.kernel_size)

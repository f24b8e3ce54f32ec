"""What each site costs, dense and as a Ghost module, by the metric of a target."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import nn

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

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: tuple[Any, ...]):
        costs = measure(model, arguments, [site.name for site in sites])
        self.total, self.positions = costs.flops, costs.positions

    def dense(self, site: Site) -> float:
        return self.positions.get(site.name, 0) * _weights(site)

    def ghost(self, planned: PlannedSite) -> float:
        return self.positions.get(planned.site.name, 0) * _ghost_weights(planned)


class ParamCosts:
    """Parameters of each site's layers. Norms and biases keep their number, whichever part has them."""

    total: float

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: tuple[Any, ...]):
        self.total = count_params(model)

    def dense(self, site: Site) -> float:
        return _weights(site)

    def ghost(self, planned: PlannedSite) -> float:
        return _ghost_weights(planned)


def measure_costs(metric: str, model: nn.Module, sites: Sequence[Site], arguments: tuple[Any, ...]) -> SiteCosts:
    """The costs of a model by ``"flops"``, ``"params"`` or ``"latency"``.

    Args:
        metric: of the target.
        model: the original.
        sites: whose costs will be asked for.
        arguments: of a forward pass; not needed for params.
    """
    return _COSTS[metric](model, sites, arguments)


_COSTS: dict[str, Callable[[nn.Module, Sequence[Site], tuple[Any, ...]], SiteCosts]] = {
    "flops": FlopCosts,
    "params": ParamCosts,
    "latency": LatencyCosts,
}


def _weights(site: Site) -> int:
    return int(site.module.weight.numel())


def _ghost_weights(planned: PlannedSite) -> int:
    """Weights of what takes a site's place, which are its multiply-adds for each output position, too."""
    layer: Any = planned.site.module
    m = planned.intrinsic
    if planned.site.kind == "linear":
        return m * (layer.in_features + layer.out_features)
    per_map = layer.weight.numel() // layer.out_channels
    each = m if planned.cheap == "pointwise" else planned.dw_size ** len(layer.kernel_size)
    return m * per_map + (layer.out_channels - m) * each

"""A site and what becomes of it."""

from dataclasses import dataclass

from ..graph.sites import Site
from ..layers.cheap_conv import Cheap


@dataclass(frozen=True)
class PlannedSite:
    """A site and what becomes of it: a Ghost module with ``intrinsic`` primary channels, a ReducedLinear of rank
    ``intrinsic``, or, where there is a ``reason``, nothing."""

    site: Site
    ratio: float | None = None
    intrinsic: int = 0
    cheap: Cheap = "depthwise"
    dw_size: int = 3
    reason: str | None = None

"""Sites and spans, and what becomes of each."""

from dataclasses import dataclass

from ..graph.sites import Site
from ..graph.spans import Span
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
    absorbed: bool = False
    """Whether the layer becomes narrower, since maps that it makes, carries or reads are absorbed."""


@dataclass(frozen=True)
class PlannedSpan:
    """A span and how many of its channels stay: all, where there is a ``reason``."""

    span: Span
    kept: int
    ratio: float | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """The qualified name of the first layer that makes the maps, by which the span is known."""
        return self.span.makers[0]

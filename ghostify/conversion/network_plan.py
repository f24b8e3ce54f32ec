"""What becomes of a whole network: of its layers, and of its spans."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..surgery.planned import PlannedSite, PlannedSpan
from .target import Budget


@dataclass(frozen=True)
class NetworkPlan:
    """What becomes of a network.

    Attributes:
        sites: its layers.
        spans: its spans; empty where none was looked for.
        budget: what a target came to; None without one.
        verified: on what the network was found to compute the same with dense layers in the new places, or why that was not
            looked at.
    """

    sites: Sequence[PlannedSite]
    spans: Sequence[PlannedSpan] = ()
    budget: Budget | None = None
    verified: str = ""

    @property
    def narrowed(self) -> list[PlannedSpan]:
        """The spans of which some channels go."""
        return [planned for planned in self.spans if planned.reason is None]

    @property
    def converts(self) -> bool:
        """Whether anything is changed."""
        return bool(self.narrowed) or any(planned.ratio for planned in self.sites)

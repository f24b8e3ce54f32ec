"""What one pass over the batches that reach a site tells of it, before any of its modules is fitted."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..absorption.patches import Taps, at_positions
from ..absorption.positions import WORK
from ..absorption.regression import Moments
from ..layers.cheap_conv import Cheap
from .channel_choice import MapMoments
from .primary_fit import PrimaryFit
from .site_data import NEIGHBOURS, SiteData


@dataclass(frozen=True)
class Survey:
    """Sums over the calibration images; they serve every module that is tried at the site.

    Attributes:
        filters: normal equations for the filters of all channels; None where filters are kept.
        maps: moments of the teacher's maps to choose channels by, for each cheap operation.
        obstacle: why filters can't be solved for; None where they can.
    """

    filters: Moments | None
    maps: dict[Cheap, MapMoments]
    obstacle: str | None

    @property
    def notes(self) -> list[str]:
        """What should be said of the site."""
        return [] if self.obstacle is None else [f"filters kept: {self.obstacle}"]

    def covers(self, kinds: Collection[Cheap]) -> bool:
        """Whether channels can be chosen for all of these cheap operations."""
        return set(kinds) <= self.maps.keys()


def survey_site(data: SiteData, primary: PrimaryFit | None, taps: Mapping[Cheap, Taps], obstacle: str | None = None) -> Survey:
    """Go through the batches once.

    Args:
        data: the site and the batches that reach it.
        primary: collects the normal equations for its filters; None for none.
        taps: of each cheap operation that channels are to be chosen for.
        obstacle: as for :class:`Survey`.
    """
    system = None if primary is None else primary.system()
    maps = {kind: MapMoments(data.n, kernel.size, data.device) for kind, kernel in taps.items()}
    for batch, positions in data.sampled():
        if primary is not None and system is not None:
            primary.add(system, batch, positions)
        for kind, moments in maps.items():
            full = data.maps(batch)
            few = _fewer(data, positions, full.shape, moments.taps)
            patches = taps[kind].gather(full, few).flatten(0, 1)
            moments.add(patches, at_positions(full, few))
    return Survey(system, maps, obstacle)


def _fewer(data: SiteData, positions: Tensor | None, shape: torch.Size, taps: int) -> Tensor | None:
    """Positions for choosing channels, where n^2 products are taken of each tap."""
    total = math.prod(shape[2:])
    wanted = max(2, math.ceil(max(min(WORK / data.n, NEIGHBOURS) / (taps * data.n), 1024) / data.images))
    have = total if positions is None else len(positions)
    if wanted >= have:
        return positions
    picked = torch.linspace(0, have - 1, wanted, device=data.device).long()
    return picked if positions is None else positions[picked]

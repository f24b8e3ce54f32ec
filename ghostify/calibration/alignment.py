"""Layers whose outputs are added to each other share their intrinsic channels and sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..surgery.source_choice import choose_sources
from .channel_choice import MapMoments, choose_pointwise

if TYPE_CHECKING:
    from ..layers.ghost_module import Cheap


@dataclass
class Partition:
    """Which channels are intrinsic, and what ghosts are made from, in all layers whose outputs are added to each other.

    Their channels can then stand in one order, which no layer has to restore (:func:`ghostify.fold`). It is chosen for all of
    them together: they are added up, so what each leaves unexplained is, too. On ResNet-56 that is a point better than what
    the first of them would choose, and half a point worse than sources of its own for each, which have to be gathered.

    Attributes:
        intrinsic: in increasing order; None before :meth:`choose`, and where there is nothing to choose.
        sources: the position there of each depthwise ghost's source, ghosts in increasing order; None where none is.
    """

    intrinsic: Tensor | None = None
    sources: Tensor | None = None
    layers: dict[int, list[dict["Cheap", Tensor]]] = field(default_factory=dict)

    def add(self, m: int, maps: Mapping["Cheap", "MapMoments"]) -> None:
        """One more layer: how many intrinsic channels it has, and moments of its maps for its widest cheap operation."""
        found = {
            kind: moments.covariance().cpu() if kind == "pointwise" else moments.unexplained().float().cpu()
            for kind, moments in maps.items()
        }
        self.layers.setdefault(m, []).append(found)

    def choose(self) -> None:
        """For the number of intrinsic channels that most layers have; others are not bound."""
        if not self.layers:
            return
        m, layers = max(self.layers.items(), key=lambda item: len(item[1]))
        depthwise = [found["depthwise"] for found in layers if "pointwise" not in found]
        if depthwise:
            cost = torch.stack(depthwise).sum(0) if len(depthwise) > 1 else depthwise[0].clone()
            self.intrinsic, self.sources = choose_sources(cost, m)
        else:
            self.intrinsic, _ = choose_pointwise(sum(found["pointwise"] for found in layers), m)  # type: ignore[arg-type]
        self.layers.clear()

    def binds(self, m: int) -> bool:
        """Whether a layer with m intrinsic channels is to keep to it."""
        return self.intrinsic is not None and len(self.intrinsic) == m

"""What each site loses at each number of intrinsic channels: measured, or guessed from its weights."""

from typing import Protocol

import numpy as np
from torch import nn

from ..common.copying import on_meta
from ..common.tensors import checksum_of_weights
from ..errors import ArgumentError
from ..surgery.planned import PlannedSite
from ..surgery.white_noise import unexplained
from .sensitivity_table import Sensitivity
from .settings import GhostConfig

MOST = 4.0  # the highest ratio where no measurement says how a site bears more


def check_weights(sensitivity: Sensitivity, model: nn.Module) -> None:
    """Check that a sensitivity was measured on this model, unless it has no values.

    Raises:
        ArgumentError: it was measured on other weights.
    """
    header = sensitivity.header
    if not on_meta(model) and checksum_of_weights(model) != header.weights:
        raise ArgumentError(
            f"sensitivity was measured on other weights ({header.model}), not on those of this {type(model).__name__}: "
            "measure it anew"
        )


class SiteLosses(Protocol):
    """What each site loses; ``most`` is the highest ratio that losses are known for."""

    @property
    def most(self) -> float: ...

    def of(self, planned: PlannedSite) -> float:
        """The loss of a site as planned, in any unit that adds up over sites."""


class MeasuredLosses:
    """Losses between the ratios that were measured, along the share of intrinsic channels; a dense site loses nothing.

    A loss never falls as channels go, which noise in a measurement could make it seem.

    Args:
        sensitivity: the measurement.
        config: settings of the conversion.
        model: the original.

    Raises:
        ArgumentError: other weights, or other settings, were measured.
    """

    def __init__(self, sensitivity: Sensitivity, config: GhostConfig, model: nn.Module):
        header = sensitivity.header
        check_weights(sensitivity, model)
        if sensitivity.curves:
            raise ArgumentError("sensitivity was measured in one pass, which goes with cheap='absorbed'")
        for name in ("cheap", "dw_size"):
            measured, setting = getattr(header, name), getattr(config, name)
            if measured != setting:
                raise ArgumentError(
                    f"sensitivity was measured with {name}={measured!r}, not {setting!r}: give convert the same"
                )
        self.model, self.most = header.model, max(header.ratios)
        metric = sensitivity.metric()
        self.curves: dict[str, list[tuple[int, float]]] = {}
        for row in sensitivity.rows:
            value = getattr(row, metric)
            self.curves.setdefault(row.name, []).append((row.intrinsic, 0.0 if value is None else value))

    def of(self, planned: PlannedSite) -> float:
        """The loss of a site as planned.

        Raises:
            ArgumentError: the site was not measured.
        """
        curve = self.curves.get(planned.site.name)
        if curve is None:
            raise ArgumentError(
                f"sensitivity has no site {planned.site.name!r}: it was measured on another model ({self.model}) or skipped it"
            )
        channels = planned.site.conv.out_channels
        points = sorted({*curve, (channels, 0.0)})
        values = np.maximum.accumulate([loss for _, loss in reversed(points)])[::-1]
        return float(np.interp(planned.intrinsic, [m for m, _ in points], values))


class WeightProxy:
    """A guess from the weights and norms alone: the square of the share of a layer's output that the kept channels leave
    unexplained, were its inputs white noise (see :mod:`ghostify.surgery.white_noise`).
    """

    def __init__(self) -> None:
        self.most = MOST
        self.curves: dict[str, np.ndarray] = {}

    def of(self, planned: PlannedSite) -> float:
        key = f"{planned.site.name} {planned.cheap}"
        if key not in self.curves:
            self.curves[key] = self._curve(planned)
        return float(self.curves[key][planned.intrinsic])

    def _curve(self, planned: PlannedSite) -> np.ndarray:
        """For each number of intrinsic channels, from none to all."""
        site = planned.site
        return unexplained(site.conv, site.norm, site.act, planned.cheap) ** 2

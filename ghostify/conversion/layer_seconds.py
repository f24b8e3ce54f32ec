"""What each layer of a network takes on a runtime, and the whole network."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerSeconds:
    """Seconds of one batch on a runtime.

    Attributes:
        total: of the whole network.
        layers: of convolutions and fully connected layers by their qualified names, each with the norm and the activation
            after it; at most ``total`` together.
    """

    total: float
    layers: Mapping[str, float]

    @classmethod
    def within(cls, total: float, layers: Mapping[str, float]) -> "LayerSeconds":
        """Of layers that were timed each by itself, which may take longer in all than the network that they are parts of."""
        scale = min(1.0, total / max(sum(layers.values()), 1e-12))
        return cls(total, {name: scale * seconds for name, seconds in layers.items()})

"""The type of a convolution of any registered class, and layers seen as such by the type checker."""

from typing import cast

from torch import nn

Convolution = nn.modules.conv._ConvNd
"""Stands for every registered class: all have the attributes that :func:`ghostify.register_pattern` asks for."""

WeightedLayer = Convolution | nn.Linear


def as_convolution(layer: nn.Module) -> Convolution:
    """The same layer, to the type checker a convolution."""
    return cast(Convolution, layer)


def as_weighted(layer: nn.Module) -> WeightedLayer:
    """The same layer, to the type checker a convolution or a fully connected layer."""
    return cast(WeightedLayer, layer)

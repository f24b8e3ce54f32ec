"""The type of a convolution of any registered class, layers seen as such by the type checker, and their filters."""

from typing import cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

Convolution = nn.modules.conv._ConvNd
"""Stands for every registered class: all have the attributes that :func:`ghostify.register_pattern` asks for."""

WeightedLayer = Convolution | nn.Linear


def as_convolution(layer: nn.Module) -> Convolution:
    """The same layer, to the type checker a convolution."""
    return cast(Convolution, layer)


def as_weighted(layer: nn.Module) -> WeightedLayer:
    """The same layer, to the type checker a convolution or a fully connected layer."""
    return cast(WeightedLayer, layer)


def is_transposed(layer: nn.Module) -> bool:
    """Whether the layer is a transposed convolution of torch in a single group: its weight and bias, and nothing else."""
    plain = type(layer) in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) and "weight" in layer._parameters
    return plain and as_convolution(layer).groups == 1


def output_dim(layer: nn.Module) -> int:
    """The dimension of the outputs in the weight of a layer; that of the inputs is the other one of the first two."""
    return 1 if isinstance(layer, _ConvTransposeNd) else 0


def filters_of(layer: nn.Module) -> Tensor:
    """(outputs, inputs of a group, *kernel) the weight of a layer, without its gradient; it shares the weight's memory."""
    weight = as_weighted(layer).weight.detach()
    return weight.transpose(0, 1) if output_dim(layer) else weight

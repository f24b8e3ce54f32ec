"""The convolution of a Ghost module's cheap operation."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from ..common.copying import deep_copy
from .convolution import Convolution
from .ghost_channels import depthwise_groups

Cheap = Literal["depthwise", "pointwise"]

CheapConv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def cheap_conv(primary: Convolution, m: int, ghosts: int, dw_size: int, cheap: Cheap, bias: bool, sources: Tensor) -> CheapConv:
    """The cheap operation's convolution, in the dimensions, on the device and of the type of the primary one.

    Its depthwise kernel passes each map on unchanged and its pointwise one is zero, so that nothing is drawn at random.

    Args:
        primary: a convolution of any registered class.
        m: the number of intrinsic maps.
        ghosts: the number of ghost maps.
        dw_size: kernel size of a depthwise operation, odd.
        cheap: ``"depthwise"`` or ``"pointwise"``.
        bias: whether it has a bias.
        sources: (ghosts,) the intrinsic map that each ghost map is made from; ignored for ``"pointwise"``.
    """
    weight = primary.weight
    used = depthwise_groups(sources, m) if cheap == "depthwise" else m
    size = dw_size if cheap == "depthwise" else 1
    conv = deep_copy(_prototype(weight.dim(), size, bias))
    conv.in_channels, conv.out_channels, conv.groups = used, ghosts, used if cheap == "depthwise" else 1
    kernels = weight.new_zeros(ghosts, used // conv.groups, *(size,) * (weight.dim() - 2))
    if cheap == "depthwise":
        middle: tuple[slice | int, ...] = (slice(None), 0, *(size // 2,) * (weight.dim() - 2))
        kernels[middle] = 1
    conv.weight = nn.Parameter(kernels)
    if bias:
        conv.bias = nn.Parameter(weight.new_zeros(ghosts))
    return conv


@lru_cache
def _prototype(dims: int, size: int, bias: bool) -> CheapConv:
    """A convolution, whose weight has so many dimensions, without values: to draw some for each layer takes longer than the
    rest."""
    classes: dict[int, type[CheapConv]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    with torch.device("meta"):
        return classes[dims](1, 1, size, padding=size // 2, bias=bias)

"""The convolution of a Ghost module's cheap operation."""

from typing import Literal

import torch
from torch import Tensor, nn

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
    classes: dict[int, type[CheapConv]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    conv_class = classes[weight.dim()]
    used = depthwise_groups(sources, m) if cheap == "depthwise" else m
    with torch.device("meta"):
        if cheap == "pointwise":
            conv = conv_class(used, ghosts, 1, bias=bias, dtype=weight.dtype)
        else:
            conv = conv_class(used, ghosts, dw_size, padding=dw_size // 2, groups=used, bias=bias, dtype=weight.dtype)
    conv = conv.to_empty(device=weight.device)
    if not weight.is_meta:
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.zero_()
            if cheap == "depthwise":
                middle: tuple[slice | int, ...] = (slice(None), 0, *(dw_size // 2,) * (weight.dim() - 2))
                conv.weight[middle] = 1
    return conv

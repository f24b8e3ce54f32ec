"""A norm as scale and shift of each channel: read off a norm, and set."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Affine:
    """What a norm does to each channel in evaluation mode."""

    scale: Tensor
    shift: Tensor

    def on(self, maps: Tensor) -> Tensor:
        """(N, channels, *spatial), each channel scaled and shifted."""
        shape = (-1, *[1] * (maps.dim() - 2))
        return maps * self.scale.view(shape) + self.shift.view(shape)


def affine_of(norm: Any, channels: int, like: Tensor) -> Affine | None:
    """A norm in evaluation mode as scale and shift of each channel; None where these depend on the image.

    Args:
        norm: any norm; None counts as one that changes nothing.
        channels: the number of channels.
        like: a tensor of the type and on the device of the result.
    """
    if norm is None:
        return Affine(torch.ones(channels).to(like), torch.zeros(channels).to(like))
    mean, var = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or var is None or mean.shape != (channels,):
        return None
    scale = (var.double() + getattr(norm, "eps", 0.0)).rsqrt()
    if getattr(norm, "weight", None) is not None:
        scale = scale * norm.weight.double()
    shift = -mean.double() * scale
    if getattr(norm, "bias", None) is not None:
        shift = shift + norm.bias.double()
    return Affine(scale.to(like), shift.to(like))


def set_norm(norm: Any, gain: Tensor, centre: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Make the norm ``gain * (value - mean) + centre`` for values of this mean and variance."""
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    if getattr(norm, "weight", None) is not None:
        norm.weight.copy_(gain * (norm.running_var.double() + norm.eps).sqrt())
    if getattr(norm, "bias", None) is not None:
        norm.bias.copy_(centre)

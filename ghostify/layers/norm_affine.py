"""A norm as scale and shift of each channel: read off a norm, and set."""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn


class RunningNorm(Protocol):
    """A norm by a mean and a variance that it holds; it may have a weight and a bias, too."""

    running_mean: Tensor
    running_var: Tensor
    eps: float


@dataclass(frozen=True)
class Affine:
    """What a norm does to each channel in evaluation mode."""

    scale: Tensor
    shift: Tensor

    def on(self, maps: Tensor) -> Tensor:
        """(N, channels, *spatial), each channel scaled and shifted."""
        shape = (-1, *[1] * (maps.dim() - 2))
        return maps * self.scale.view(shape) + self.shift.view(shape)


def affine_of(norm: nn.Module | None, channels: int, like: Tensor) -> Affine | None:
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
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return Affine(scale.to(like), shift.to(like))


def set_norm(norm: nn.Module, gain: Tensor, centre: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Make the norm ``gain * (value - mean) + centre`` for values of this mean and variance."""
    running = cast(RunningNorm, norm)
    running.running_mean.copy_(mean)
    running.running_var.copy_(variance)
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if weight is not None:
        weight.copy_(gain * (running.running_var.double() + running.eps).sqrt())
    if bias is not None:
        bias.copy_(centre)

"""A norm as scale and shift of each channel, read off it and set, and a regression's solution put into convolution and norm."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .moments import Moments


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
    """The norm as scale and shift; identity where there is none; None where it depends on the image."""
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


def install_filters(conv: Any, norm: Any, system: Moments, weights: Tensor, shift: Tensor, length: Tensor) -> None:
    """Set a convolution and its norm to a solution of ``system``, (groups, unknowns, channels) and (groups, channels)."""
    variance = ((system.covariance() @ weights) * weights).sum(1).flatten()
    mean = (system.mean_x[:, None] @ weights)[:, 0].flatten()
    _install(conv, norm, weights.mT.reshape(conv.weight.shape), shift.flatten(), mean, variance, length)


def _install(conv: Any, norm: Any, weights: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, length: Tensor) -> None:
    """Set a convolution and its norm to a solution ``weights * patch + shift``.

    Under a norm the filters get the length of the original's: any other length would be another learning rate later on.

    Args:
        weights: of the shape of the convolution's weight; shift, mean and variance of ``weights * patch``: (channels,).
        length: (channels,) of the original filters.
    """
    if norm is None:
        conv.weight.copy_(weights)
        if conv.bias is not None:
            conv.bias.copy_(shift)
        return
    solved = weights.flatten(1).norm(dim=1)
    scale = torch.where((length > 1e-12) & (solved > 1e-12), length.double() / solved, 1.0)  # a dead channel stays dead
    conv.weight.copy_(weights * scale.view(-1, *[1] * (weights.dim() - 1)))
    if getattr(conv, "bias", None) is not None:
        conv.bias.zero_()
    set_norm(norm, 1 / scale, shift + mean, mean * scale, variance.clamp_min(0) * scale**2)


def set_norm(norm: Any, gain: Tensor, centre: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Make the norm ``gain * (value - mean) + centre`` for values of this mean and variance."""
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    if getattr(norm, "weight", None) is not None:
        norm.weight.copy_(gain * (norm.running_var.double() + norm.eps).sqrt())
    if getattr(norm, "bias", None) is not None:
        norm.bias.copy_(centre)

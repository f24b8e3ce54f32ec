"""What the weights and the norm tell of a layer's output channels, its inputs taken as white noise."""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ..common.copying import copy_without_hooks
from ..layers.convolution import Convolution, filters_of

TINY = 1e-12


@dataclass(frozen=True)
class Channels:
    """What the weights and the norm tell of a layer's n output channels, each taken as Gaussian before its activation.

    Inputs count as white noise, so two channels correlate as their filters do. ``slope`` is the regression of the map after
    its activation on the map before: by Stein's lemma it carries a correlation through the activation.
    """

    filters: Tensor  # (n, in_channels / groups, *kernel_size), unit length, the norm's sign included
    mean: Tensor  # (n,) before the activation
    std: Tensor  # (n,) before the activation
    length: Tensor  # (n,) the norms of the layer's own filters
    slope: Tensor  # (n,)
    out_mean: Tensor  # (n,) after the activation
    out_var: Tensor  # (n,) after the activation

    def first(self, count: int) -> "Channels":
        """The first channels alone."""
        return Channels(*(getattr(self, field.name)[:count] for field in fields(self)))

    @property
    def fidelity(self) -> Tensor:
        """Which share of the variance after the activation is linear in the map before it: 1 where there is none."""
        return (self.slope**2 * self.std**2 / self.out_var.clamp_min(TINY)).clamp(max=1)


def describe_channels(conv: Convolution, norm: nn.Module | None, act: nn.Module | None) -> Channels:
    """What a convolution, the norm after it and the activation after that tell of the output channels.

    Args:
        conv: a convolution of any registered class.
        norm: any norm, or None.
        act: the activation, or None; one inside the norm counts where there is no other.
    """
    weight = filters_of(conv).float()
    n = weight.shape[0]
    length = weight.flatten(1).norm(dim=1).clamp_min(TINY)
    sign = torch.ones(n, device=weight.device)
    bias = getattr(conv, "bias", None)
    mean, std = torch.zeros_like(length) if bias is None else bias.detach().float(), length
    if norm is not None:
        gain, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
        std = torch.ones_like(length) if gain is None else gain.detach().float().abs()
        sign = sign if gain is None else gain.detach().float().sign()
        mean = torch.zeros_like(length) if shift is None else shift.detach().float()
    inner = getattr(norm, "act", None)
    act = act if act is not None else (inner if isinstance(inner, nn.Module) else None)
    slope, out_mean, out_var = _through(act, mean, std)
    unit = weight * (sign / length).view(-1, *[1] * (weight.dim() - 1))
    return Channels(unit, mean, std, length, slope, out_mean, out_var)


def _through(act: nn.Module | None, mean: Tensor, std: Tensor, nodes: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, mean and variance of act(y) for Gaussian y, by Gauss-Hermite quadrature."""
    if act is None:
        return torch.ones_like(std), mean, std**2
    points, weights = _quadrature(nodes)
    x, w = (torch.as_tensor(a, dtype=mean.dtype, device=mean.device) for a in (points, weights))
    y = mean[:, None] + std[:, None] * x
    with torch.no_grad():
        z = copy_without_hooks(act).to(mean.dtype)(y[None].clone())[0]
    out_mean = z @ w
    slope = (z * x) @ w / std.clamp_min(TINY)
    return slope, out_mean, ((z - out_mean[:, None]) ** 2) @ w


@lru_cache
def _quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return points, weights / weights.sum()


def channel_correlation(channels: Channels, groups: int) -> Tensor:
    """(n, n) correlation of the maps before their activation; zero across groups, which see different inputs."""
    flat = channels.filters.flatten(1)
    if groups == 1:
        return flat @ flat.T
    per_group = flat.view(groups, -1, flat.shape[1])
    return torch.block_diag(*(per_group @ per_group.mT))


def ghost_costs(channels: Channels, groups: int) -> Tensor:
    """(n, n): the variance of map j (row), after its activation, that map i (column) leaves unexplained."""
    correlation = channel_correlation(channels, groups)
    return correlation.square_().mul_(-channels.fidelity).add_(1).mul_(channels.out_var[:, None])


@torch.no_grad()
def unexplained(conv: Convolution, norm: nn.Module | None, act: nn.Module | None, cheap: str) -> np.ndarray:
    """Which part of the variance of a layer's maps is left when 0 to n channels stay and make the others, at best.

    That is by the model of :class:`Channels`; without a channel nothing is explained.

    Returns:
        (n + 1,) from 1 for no channel down to 0 for all n.
    """
    channels = describe_channels(conv, norm, act)
    if cheap == "pointwise":
        carried = channels.slope * channels.std
        noise = (channels.out_var - carried**2).clamp_min(0)
        covariance = channel_correlation(channels, conv.groups) * carried[:, None] * carried + noise.diag()
        each = torch.linalg.eigvalsh(covariance.double().cpu()).clamp_min(0)
    else:
        each = ghost_costs(channels, conv.groups).fill_diagonal_(torch.inf).amin(1).double().cpu().sort().values
    left = torch.cat([torch.zeros(1, dtype=torch.float64), each.cumsum(0)]).flip(0)
    left[0] = channels.out_var.double().sum()
    return (left / left[0].clamp_min(1e-30)).clamp(max=1).numpy()

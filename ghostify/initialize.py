"""Warm start: intrinsic channels, the source of each ghost, cheap kernels and norms, from the weights alone.

The model behind it: inputs are white noise, so two channels of a layer correlate as their filters do, and each is Gaussian
with the mean and deviation that its norm prescribes. Everything below is least squares under that model. Kernels of the
depthwise operation get their centre tap only: fitting all taps was tried and gained one point on ResNet-56 before any
calibration, at five times the time.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .copying import copy_without_hooks
from .modules import GhostModule
from .plan import PlannedSite

_TINY = 1e-12


def make_ghost(planned: PlannedSite, init: str = "warm", seed: int = 0) -> GhostModule:
    """The Ghost module for a planned convolution, with its starting weights.

    Args:
        planned: a site that has a ratio.
        init: ``"warm"`` or ``"random"``; on the meta device neither computes anything.
        seed: of ``"random"``; the caller's random state is left as it was.
    """
    site = planned.site
    conv, m = site.module, planned.intrinsic
    warm = init == "warm" and not conv.weight.is_meta
    channels = _describe(conv, site.norm, site.act) if warm else None
    if channels is not None:
        intrinsic, sources = choose_sources(_cost(channels, conv.groups), m, conv.groups)
    else:
        intrinsic, sources = _by_position(conv.out_channels, m, conv.groups)
    ghost = GhostModule.from_conv(
        conv, intrinsic, sources, norm=site.norm, act=site.act,
        act_inside=site.act_name is not None, dw_size=planned.dw_size, cheap=planned.cheap,
    )  # fmt: skip
    if channels is not None:
        _fit(ghost, channels, conv.groups)
    elif not conv.weight.is_meta:
        _reset(ghost, seed)
    return ghost


def choose_sources(cost: Tensor, m: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Choose which channels stay intrinsic and the source of every other one, at little total cost.

    Greedy: the cheapest (source, ghost) pair first, as long as the source has room; each intrinsic map carries at most
    ceil((n - m) / m) ghosts, so that the depthwise kernel keeps a regular grouping.

    Args:
        cost: (n, n), ``cost[j, i]`` of making channel j from channel i; its diagonal is overwritten with infinity.
        m: number of intrinsic channels; with groups, m / groups of each.

    Returns:
        intrinsic, (m,) channel indices in increasing order; sources, (n - m,) positions in ``intrinsic``, one for each
        other channel in increasing order.
    """
    n, size = len(cost), len(cost) // groups
    cost = cost.cpu().fill_diagonal_(torch.inf)  # pairs are named one after the other: nothing for a GPU
    to_make = [(n - m) // groups] * groups  # ghosts of each group of channels, and intrinsic channels, still to be named
    to_keep = [m // groups] * groups
    room = np.full(n, -(-(n - m) // m))
    source, kept = np.full(n, -1), np.zeros(n, dtype=bool)
    takers = np.arange(n)
    barred = np.zeros(n, dtype=bool)  # can't be the source of one more ghost
    while len(takers):
        rows = cost
        if len(takers) < n:  # nothing is barred in the first round
            rows = cost[torch.from_numpy(takers)].masked_fill_(torch.from_numpy(barred), torch.inf)
        best, where = rows.min(dim=1)
        order = best.argsort(stable=True)
        for i, j in zip(where[order].tolist(), takers[order.numpy()].tolist(), strict=True):
            if kept[j] or source[i] >= 0 or not room[i] or not to_make[j // size]:
                continue
            if not kept[i]:
                if not to_keep[i // size]:
                    continue
                to_keep[i // size] -= 1
                kept[i] = True
            to_make[j // size] -= 1
            room[i] -= 1
            source[j] = i
        is_ghost = source >= 0
        barred = is_ghost | (room == 0) | (~kept & np.repeat(np.array(to_keep) == 0, size))
        takers = (~is_ghost & ~kept & np.repeat(np.array(to_make) > 0, size)).nonzero()[0]
    intrinsic = torch.from_numpy((source < 0).nonzero()[0])
    position = torch.empty(n, dtype=torch.long)
    position[intrinsic] = torch.arange(m)
    return intrinsic, position[torch.from_numpy(source[source >= 0])]


@dataclass(frozen=True)
class Channels:
    """What the weights and the norm tell of a layer's n output channels, each taken as Gaussian before its activation.

    Inputs count as white noise, so two channels correlate as their filters do. ``slope`` is the regression of the map after
    its activation on the map before: by Stein's lemma it carries a correlation through the activation.
    """

    filters: Tensor  # (n, in_channels / groups, *kernel_size), unit length, the norm's sign included
    mean: Tensor  # (n,) before the activation
    std: Tensor
    length: Tensor  # of the filters as they are
    slope: Tensor
    out_mean: Tensor  # (n,) after the activation
    out_var: Tensor

    @property
    def fidelity(self) -> Tensor:
        """Which share of the variance after the activation is linear in the map before it: 1 where there is none."""
        return (self.slope**2 * self.std**2 / self.out_var.clamp_min(_TINY)).clamp(max=1)


def _describe(conv: Any, norm: Any, act: nn.Module | None) -> Channels:
    weight = conv.weight.detach().float()
    n = weight.shape[0]
    length = weight.flatten(1).norm(dim=1).clamp_min(_TINY)
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
    slope = (z * x) @ w / std.clamp_min(_TINY)
    return slope, out_mean, ((z - out_mean[:, None]) ** 2) @ w


@lru_cache
def _quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return points, weights / weights.sum()


def _correlation(channels: Channels, groups: int) -> Tensor:
    """(n, n) of the maps before their activation; none across groups, which see different inputs."""
    flat = channels.filters.flatten(1)
    if groups == 1:
        return flat @ flat.T
    per_group = flat.view(groups, -1, flat.shape[1])
    return torch.block_diag(*(per_group @ per_group.mT))


def _cost(channels: Channels, groups: int) -> Tensor:
    """(n, n): the variance of map j (row), after its activation, that map i (column) leaves unexplained."""
    correlation = _correlation(channels, groups)
    return correlation.square_().mul_(-channels.fidelity).add_(1).mul_(channels.out_var[:, None])


@torch.no_grad()
def unexplained(conv: Any, norm: Any, act: nn.Module | None, cheap: str) -> np.ndarray:
    """(n + 1,): which part of the variance of a layer's maps is left when 0 to n channels stay and make the others, at best,
    by the model above; none is explained without a channel."""
    channels = _describe(conv, norm, act)
    if cheap == "pointwise":
        carried = channels.slope * channels.std
        noise = (channels.out_var - carried**2).clamp_min(0)
        covariance = _correlation(channels, conv.groups) * carried[:, None] * carried + noise.diag()
        each = torch.linalg.eigvalsh(covariance.double().cpu()).clamp_min(0)
    else:
        each = _cost(channels, conv.groups).fill_diagonal_(torch.inf).amin(1).double().cpu().sort().values
    left = torch.cat([torch.zeros(1, dtype=torch.float64), each.cumsum(0)]).flip(0)
    left[0] = channels.out_var.double().sum()
    return (left / left[0].clamp_min(1e-30)).clamp(max=1).numpy()


def _by_position(n: int, m: int, groups: int) -> tuple[Tensor, Tensor]:
    """The first channels of each group stay; ghosts take their sources in turn, as in the paper."""
    per_group = torch.arange(n).view(groups, -1)[:, : m // groups]
    return per_group.flatten(), torch.arange(n - m) // -(-(n - m) // m)


@torch.no_grad()
def _fit(ghost: GhostModule, channels: Channels, groups: int) -> None:
    """Regress each ghost map, before its activation, on the maps it is made from."""
    kept, made = ghost.original_channels()
    slope, std = channels.slope, channels.std
    carried = slope * std  # the part of a map after its activation that is linear in the map before
    parts: list[Any] = list(ghost.cheap_operation)
    conv, *followers = parts
    noise = (channels.out_var - carried**2).clamp_min(0)
    if ghost.cheap == "pointwise":
        correlation = _correlation(channels, groups)
        covariance = correlation[kept][:, kept] * carried[kept, None] * carried[kept] + noise[kept].diag()
        target = correlation[made][:, kept] * std[made, None] * carried[kept]
        ridge = 1e-3 * covariance.diagonal().mean() + _TINY
        kernel = torch.linalg.solve(covariance + ridge * torch.eye(len(kept)).to(covariance), target.T).T
        mean = kernel @ channels.out_mean[kept]
        variance = (kernel @ covariance * kernel).sum(1)
        taps = kernel.reshape(conv.weight.shape)
    else:
        source = kept[ghost.source_positions()]
        same_inputs = made * groups // len(std) == source * groups // len(std)  # of one group
        correlation = (channels.filters[made] * channels.filters[source]).flatten(1).sum(1) * same_inputs.to(std)
        kernel = correlation * std[made] * carried[source] / channels.out_var[source].clamp_min(_TINY)
        mean = kernel * channels.out_mean[source]
        variance = kernel**2 * channels.out_var[source]
        taps = conv.weight * kernel.view(-1, *[1] * (conv.weight.dim() - 1))  # so far it has a one in its centre
    norm = followers[0] if followers and hasattr(followers[0], "running_var") else None
    if norm is None:
        if conv.bias is not None:
            conv.bias.copy_(channels.mean[made] - mean)
    else:
        # the norm undoes any scale, so each kernel gets the length of the filter it replaces: a length far from it
        # would be a different learning rate
        scale = channels.length[made] / taps.flatten(1).norm(dim=1).clamp_min(_TINY)
        taps = taps * scale.view(-1, *[1] * (taps.dim() - 1))
        variance = variance * scale**2
        if norm.weight is not None:
            norm.weight.copy_((variance + norm.eps).sqrt() / scale)
        if norm.running_var is not None:
            norm.running_mean.copy_(mean * scale)
            norm.running_var.copy_(variance)
    conv.weight.copy_(taps)


def _reset(ghost: GhostModule, seed: int) -> None:
    """Random weights, for training from scratch; then the order of channels carries no meaning."""
    device = next(ghost.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in ghost.modules():
            reset: Any = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
    ghost.channel_order = None

"""Choose intrinsic channels and the source of each ghost from second moments of the teacher's maps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.cheap_conv import Cheap
from ..layers.ghost_module import GhostModule
from ..surgery.source_choice import choose_sources


@dataclass(frozen=True)
class ChannelChoice:
    """The cheap operation of a Ghost module, and what it makes from what.

    Attributes:
        cheap: the cheap operation.
        intrinsic: (m,) channels, in increasing order.
        sources: (n - m,) for each other channel, in increasing order, the position in ``intrinsic`` of its source; zeros
            for pointwise ghosts, which are made from all.
        unexplained: the variance of the teacher's maps that this leaves unexplained; NaN where it was not measured.
    """

    cheap: Cheap
    intrinsic: Tensor
    sources: Tensor
    unexplained: float = float("nan")


def channels_of(module: GhostModule) -> ChannelChoice:
    """The choice that a module was built with."""
    kept, ghosts = module.original_channels()
    order = kept.argsort()
    sources = torch.zeros(len(ghosts), dtype=torch.long)
    if module.cheap == "depthwise":
        sources = order.argsort()[module.source_positions()][ghosts.argsort()]
    return ChannelChoice(module.cheap, kept[order], sources)


class MapMoments:
    """Second moments of n feature maps and of their neighbourhoods, streamed in float64.

    Args:
        channels: how many maps n.
        taps: numbers in the depthwise kernel, d x d; 1 for a pointwise cheap operation.
        device: of the maps.
    """

    def __init__(self, channels: int, taps: int, device: torch.device):
        self.count = 0
        self.taps = taps
        self.mean = torch.zeros(channels, dtype=torch.float64, device=device)
        self.mean_taps = torch.zeros(channels, taps, dtype=torch.float64, device=device)
        self.cross = torch.zeros(taps, channels, channels, dtype=torch.float64, device=device)  # source, target
        self.patch_products = torch.zeros(channels, taps, taps, dtype=torch.float64, device=device)
        self.square = torch.zeros(channels, dtype=torch.float64, device=device)

    def add(self, patches: Tensor, targets: Tensor) -> None:
        """``patches`` (P, n, taps) around P positions of the maps, ``targets`` (P, n) there."""
        self.count += len(patches)
        self.mean += targets.sum(0)
        self.square += targets.double().square().sum(0)
        self.mean_taps += patches.sum(0)
        by_channel = patches.movedim(0, 1)  # (n, P, taps)
        self.patch_products += by_channel.mT @ by_channel
        for tap in range(self.taps):
            self.cross[tap] += patches[:, :, tap].T @ targets

    def variance(self) -> Tensor:
        """(n,) of the maps."""
        mean = self.mean / self.count
        return (self.square / self.count - mean**2).clamp_min(0)

    def unexplained(self) -> Tensor:
        """(n, n): the variance of map j (row) that the neighbourhood of map i (column) leaves unexplained."""
        mean, taps = self.mean / self.count, self.mean_taps / self.count
        covariance = self.patch_products / self.count - taps[:, :, None] * taps[:, None]
        cross = self.cross / self.count - taps.T[:, :, None] * mean  # (taps, source, target)
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1)
        dead = scale <= 1e-12 * scale.max().clamp_min(1e-30)
        identity = torch.eye(self.taps).to(covariance)
        covariance = covariance + (1e-6 * scale + dead.to(scale))[:, None, None] * identity
        factor, failed = torch.linalg.cholesky_ex(covariance)
        factor = torch.where((failed > 0)[:, None, None], identity, factor)
        explained = torch.linalg.solve_triangular(factor, cross.movedim(0, 1), upper=False).square().sum(1)  # (source, target)
        explained[dead | (failed > 0)] = 0
        variance = self.variance()
        return (variance - torch.minimum(explained, variance)).T.clamp_min(0).contiguous()

    def covariance(self) -> Tensor:
        """(n, n) of the maps at the centre tap."""
        mean, taps = self.mean / self.count, self.mean_taps[:, self.taps // 2] / self.count
        return self.cross[self.taps // 2] / self.count - taps[:, None] * mean


def choose_depthwise(
    maps: MapMoments, m: int, groups: int, intrinsic: Tensor | None = None, sources: Tensor | None = None
) -> ChannelChoice:
    """Intrinsic channels and sources such that little variance of the maps after their activation is left unexplained.

    Args:
        maps: moments of all maps and their neighbourhoods.
        m: how many channels are intrinsic; with groups, m / groups of each.
        groups: of the convolution.
        intrinsic, sources: where they are decided already; sources are chosen for ``intrinsic`` if they alone are None.
    """
    cost = maps.unexplained().float().cpu()
    if intrinsic is None:
        intrinsic, sources = choose_sources(cost.clone(), m, groups)
    elif sources is None:
        sources = assign_sources(cost, intrinsic)
    assert sources is not None
    ghost = torch.ones(len(cost), dtype=torch.bool)
    ghost[intrinsic] = False
    return ChannelChoice("depthwise", intrinsic, sources, float(cost[ghost, intrinsic[sources]].sum()))


def assign_sources(cost: Tensor, intrinsic: Tensor) -> Tensor:
    """(n - m,) for each other channel, in increasing order, a position in ``intrinsic``; the cheapest pair first, and as many
    ghosts for each intrinsic map as :func:`ghostify.surgery.source_choice.choose_sources` gives it at most."""
    others = torch.ones(len(cost), dtype=torch.bool)
    others[intrinsic] = False
    rest = cost[others][:, intrinsic].clone()
    ghosts, m = rest.shape
    room = torch.full((m,), -(-ghosts // m))
    sources = torch.full((ghosts,), -1)
    while bool((sources < 0).any()):
        best, where = rest.min(1)
        for j in best.argsort(stable=True).tolist():
            if sources[j] < 0 and room[where[j]] > 0:
                sources[j] = where[j]
                room[where[j]] -= 1
        rest[:, room == 0] = torch.inf
        rest[sources >= 0] = torch.inf
    return sources


def unexplained_by(covariance: Tensor, intrinsic: Tensor) -> float:
    """The variance of the other maps that those of ``intrinsic`` leave unexplained."""
    others = torch.ones(len(covariance), dtype=torch.bool)
    others[intrinsic] = False
    total = covariance.double().cpu()
    kept, cross = total[intrinsic][:, intrinsic], total[intrinsic][:, others]
    kept = kept + (1e-6 * kept.diagonal().mean().clamp_min(1e-30)) * torch.eye(len(kept)).to(kept)
    return float((total.diagonal()[others] - (cross * torch.linalg.solve(kept, cross)).sum(0)).clamp_min(0).sum())


def choose_pointwise(covariance: Tensor, m: int, groups: int = 1) -> tuple[Tensor, float]:
    """Columns whose span explains most: at each step the channel that takes away most of what is left, of all channels.

    Args:
        covariance: (n, n).
        m: how many; with groups, m / groups of each.

    Returns:
        (m,) channels, in increasing order, and the variance of the others that is left unexplained.
    """
    rest = covariance.double().cpu().clone()
    rest = (rest + rest.T) / 2
    n = len(rest)
    room = torch.full((groups,), m // groups)
    group = torch.arange(n) // (n // groups)
    taken = torch.zeros(n, dtype=torch.bool)
    floor = rest.diagonal().max().clamp_min(1e-30) * 1e-10
    for _ in range(m):
        pivot = rest.diagonal()
        gain = torch.where(pivot > floor, rest.square().sum(0) / pivot.clamp_min(1e-30), 0)
        best = int(gain.masked_fill(taken | (room[group] == 0), -1).argmax())
        taken[best] = True
        room[group[best]] -= 1
        if pivot[best] > floor:
            column = rest[:, best] / pivot[best].sqrt()
            rest -= column[:, None] * column
    return taken.nonzero().flatten(), float(rest.diagonal()[~taken].clamp_min(0).sum())

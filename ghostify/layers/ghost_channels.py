"""Which output channels a Ghost module keeps and which it makes, in the order in which it computes them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GhostChannels:
    """The output channels of a Ghost module, n in all, in the order in which it computes them.

    Attributes:
        intrinsic: (m,) the output channels that the intrinsic maps become.
        ghosts: (n - m,) the output channels that the ghost maps become.
        sources: (n - m,) for each ghost map the intrinsic map, by its place in ``intrinsic``, that it is made from.
    """

    intrinsic: Tensor
    ghosts: Tensor
    sources: Tensor

    @property
    def order(self) -> Tensor | None:
        """(n,) where each output channel stands among the maps as they are computed; None where it stands in its place."""
        order = torch.argsort(torch.cat([self.intrinsic, self.ghosts]))
        return None if torch.equal(order, torch.arange(len(order))) else order


def channels_as_given(out_channels: int, intrinsic: Tensor, sources: Tensor) -> GhostChannels:
    """Intrinsic channels in the order given, and all others in increasing order."""
    is_kept = torch.zeros(out_channels, dtype=torch.bool)
    is_kept[intrinsic] = True
    return GhostChannels(intrinsic, (~is_kept).nonzero().flatten(), sources)


def channels_by_source(channels: GhostChannels, groups: int) -> GhostChannels:
    """The busiest intrinsic maps first, and ghosts in the order of their sources.

    A depthwise kernel then runs over a slice of the intrinsic maps, where it would else have to gather them. With groups the
    intrinsic maps stay in their order, which the primary convolution prescribes.
    """
    intrinsic, sources = channels.intrinsic, channels.sources
    if groups == 1:
        busiest = torch.argsort(torch.bincount(sources, minlength=len(intrinsic)), descending=True, stable=True)
        intrinsic, sources = intrinsic[busiest], torch.argsort(busiest)[sources]
    sources, by_source = torch.sort(sources, stable=True)
    return GhostChannels(intrinsic, channels.ghosts[by_source], sources)


def depthwise_groups(sources: Tensor, m: int) -> int:
    """Groups of a depthwise kernel that runs over a slice of the m maps, or one group a ghost where a gather is needed."""
    return slice_groups(len(sources), m) if is_slice(sources, m) else len(sources)


def slice_groups(ghosts: int, m: int) -> int:
    """Groups of a depthwise kernel that makes this many ghosts of a slice of m maps."""
    return ghosts // math.ceil(ghosts / m)


def is_slice(sources: Tensor, m: int) -> bool:
    """Whether each of the first maps in turn has the same number of ghosts, as a grouped convolution takes them."""
    per_map = math.ceil(len(sources) / m)
    return len(sources) % per_map == 0 and torch.equal(sources, torch.arange(len(sources)) // per_map)

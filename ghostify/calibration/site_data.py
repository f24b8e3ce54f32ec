"""What a site sees and what it should give, batch by batch, at all positions or at a sample of them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..absorption.patches import at_positions
from ..absorption.positions import position_budget, sample_positions
from ..graph.sites import Site
from ..layers.norm_affine import Affine, affine_of

NEIGHBOURS = 65536 * 64 * 9  # numbers around the positions that channels are chosen by, or cheap kernels fitted at


@dataclass
class Batch:
    """What a site sees and should give for one batch: maps of shape (N, channels, *spatial)."""

    inputs: Tensor  # what reaches the student's site
    output: Tensor  # what the teacher's convolution gives, before its norm
    total: Tensor | None = None  # the teacher's sum of branch and shortcut
    shortcut: Tensor | None = None  # the student's shortcut


Batches = Callable[[], Iterator[Batch]]


class SiteData:
    """One site of the teacher, and the batches that reach it.

    Args:
        site: the teacher's convolution with what follows it.
        batches: gives the batches anew at each call; what they hold may come from the disk.
        images: how many there are, to know how many positions of each to take.
        seed: of the positions.
        after: the activation that follows the sum with the shortcut.

    Attributes:
        conv: the convolution, of any registered class.
        n, groups, unknowns: its output channels, its groups, and the numbers in one of its filters.
        norm: the norm behind it where that is a scale and shift of each channel; None where it depends on the image.
        affine: that scale and shift; the identity where there is none.
        act: the activation behind the norm, that inside of the norm included.
        sees_image: whether a norm that depends on the image stands between filters and activation.
        budget: positions of all images together that regressions use.
    """

    def __init__(self, site: Site, batches: Batches, images: int, seed: int = 0, after: nn.Module | None = None):
        self.site, self.batches, self.seed, self.after = site, batches, seed, after
        self.conv = site.conv
        self.n, self.groups = self.conv.out_channels, self.conv.groups
        self.unknowns: int = self.conv.in_channels // self.groups * math.prod(self.conv.kernel_size)
        weight = self.conv.weight.detach()
        self.device: torch.device = weight.device
        norm = site.norm
        affine = affine_of(norm, self.n, weight.float())
        self.norm = norm if affine is not None else None  # a norm that depends on the image stays as it is
        one = torch.ones(self.n, device=self.device)
        self.affine = affine or Affine(one, 0 * one)
        inner = getattr(norm, "act", None)
        self.act = site.act if site.act is not None else inner if isinstance(inner, nn.Module) else None
        self.sees_image = norm is not None and affine is None
        if self.sees_image:
            self.act = None  # between the filters and the activation stands a norm that no regression sees through
        self.images = max(1, images)
        self.budget = position_budget(self.unknowns)

    @property
    def has_activation(self) -> bool:
        """Whether an activation follows the site, or the sum that it enters."""
        return self.act is not None or self.after is not None

    def norm_in(self, part: nn.Sequential) -> nn.Module | None:
        """The norm in one of the two parts of a Ghost module at this site; None where it has none to set."""
        return part[1] if self.norm is not None else None

    def filter_length(self, channels: Tensor) -> Tensor:
        """Euclidean length of the original filters of some channels."""
        return self.conv.weight.detach()[channels].flatten(1).norm(dim=1)

    def positions(self, batch: Batch, budget: int, index: int) -> Tensor | None:
        """Positions to take of each image of a batch; None for all."""
        total = math.prod(batch.output.shape[2:])
        return sample_positions(total, budget, self.images, self.seed, index, self.device)

    def sampled(self, budget: int | None = None) -> Iterator[tuple[Batch, Tensor | None]]:
        """Every batch, with the positions to take of it; ``budget`` is :attr:`budget` if None."""
        for index, batch in enumerate(self.batches()):
            yield batch, self.positions(batch, budget or self.budget, index)

    def target(self, batch: Batch, positions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(P, n) what the site should give before its activation, and the student's shortcut there."""
        output = at_positions(batch.output, positions).float() * self.affine.scale + self.affine.shift
        if batch.total is None or batch.shortcut is None:
            return output, None
        shortcut = at_positions(batch.shortcut, positions).float()
        return at_positions(batch.total, positions).float() - shortcut, shortcut

    def missing(self, target: Tensor, output: Tensor, shortcut: Tensor | None, channels: Tensor) -> Tensor:
        """(P, some channels) what an output lacks after its activation: nothing where both are cut off."""
        act = self.after if shortcut is not None else self.act
        if act is None:
            return target - output
        add: Tensor | float = 0.0 if shortcut is None else shortcut[:, channels]
        return self._activate(act, target + add, channels) - self._activate(act, output + add, channels)

    def _activate(self, act: nn.Module, values: Tensor, channels: Tensor) -> Tensor:
        """The activation on (P, some channels); one with parameters for each channel gets all of them."""
        if getattr(act, "num_parameters", 1) == 1:
            return act(values.clone())
        full = values.new_zeros(len(values), self.n)
        full[:, channels] = values
        return act(full)[:, channels]

    def maps(self, batch: Batch) -> Tensor:
        """(N, n, *spatial) of the teacher, after its norm and its activation."""
        full = self.affine.on(batch.output.float())
        return full if self.act is None else self.act(full)


class UnevenError(Exception):
    """Teacher and student do not have the same number of things to compare at a place."""

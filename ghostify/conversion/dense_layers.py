"""Dense layers at the places where a plan puts new ones: a network with them computes what the original does."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..common.copying import copy_layer
from ..graph.sites import Site
from ..layers.convolution import Convolution, as_weighted, filters_of
from ..layers.ghost_module import GhostModule
from ..layers.reduced_linear import ReducedLinear
from ..surgery.narrowing import NarrowedSpan, columns_of, inputs_of, narrowed_layers
from ..surgery.planned import PlannedSite, PlannedSpan
from ..surgery.swap import rebased

M = TypeVar("M", bound=nn.Module)


class DenseGhost(GhostModule):
    """What stands where a Ghost module would, answers what it would, and computes the dense original.

    Args:
        site: the layers that the Ghost module would stand for.
    """

    def __init__(self, site: Site):
        nn.Module.__init__(self)
        layers = (site.module, site.norm, site.act if site.act_name is not None else None)
        self.out_channels = site.conv.out_channels
        self.primary_conv = nn.Sequential(*(_twin(layer) for layer in layers if layer is not None))
        self.cheap_operation = nn.Sequential()
        self.intrinsic_act = self.ghost_source = self.channel_order = None
        self.channel_dim = 1 - site.conv.weight.dim()

    def forward(self, x: Tensor) -> Tensor:
        return self.primary_conv(x)


class DenseLinear(ReducedLinear):
    """What stands where a ReducedLinear would, and computes the dense original."""

    def __init__(self, linear: nn.Linear, rank: int):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.rank = linear.in_features, linear.out_features, rank
        self.expand = _twin(linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(x)


def dense_layers(planned: Sequence[PlannedSite], layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """By qualified name, what stands in the places of some sites.

    Args:
        planned: the sites that are converted.
        layers: what stands under the names of a network.
    """
    standing: dict[str, nn.Module] = {}
    for one in rebased(planned, layers):
        site = one.site
        standing[site.name] = DenseLinear(site.linear, one.intrinsic) if site.kind == "linear" else DenseGhost(site)
        if site.tells_type:
            vars(standing[site.name])["tells_type"] = True
        standing |= {name: nn.Identity() for name in (site.norm_name, site.act_name) if name is not None}
    return standing


class DroppedMaps:
    """For each span that is narrowed, maps that go, chosen at random; with their columns zero in the readers, the original
    computes what the narrowed network does.

    Args:
        modules: of the original, by their qualified names.
        spans: those that are narrowed.
    """

    def __init__(self, modules: Mapping[str, nn.Module], spans: Sequence[PlannedSpan]):
        chance = torch.Generator("cpu").manual_seed(0)
        self._spans = {planned.name: NarrowedSpan(planned.span, _some(planned, chance)) for planned in spans}
        self.layers: dict[str, nn.Module] = {}
        for one in self._spans.values():
            for use in one.span.readers:
                reader = self.layers.get(use.target, modules[use.target])
                self.layers[use.target] = _without_columns(reader, columns_of(use, one.gone()))
        self._modules = {**modules, **self.layers}

    def narrowed(self, names: Sequence[str]) -> dict[str, nn.Module]:
        """By qualified name, the layers of a network in which some of the spans are narrowed, and the readers of others have
        zeros."""
        return self.layers | narrowed_layers(self._modules, [self._spans[name] for name in names])


def _twin(layer: M) -> M:
    """A layer that shares its tensors with another, and computes what its class does, whatever its instance was told."""
    twin = copy_layer(layer)
    vars(twin).pop("forward", None)
    return twin


def _some(planned: PlannedSpan, chance: torch.Generator) -> Tensor:
    """(m,) channels of a span that stay, at random, equally many of each of its groups, in increasing order."""
    groups, size = planned.span.groups, planned.span.channels // planned.span.groups
    rows = [torch.randperm(size, generator=chance, device="cpu")[: planned.kept // groups].sort().values for _ in range(groups)]
    return torch.cat([group * size + row for group, row in enumerate(rows)])


def _without_columns(layer: nn.Module, columns: Tensor) -> nn.Module:
    """A convolution or fully connected layer that does not see some of its inputs."""
    blind = as_weighted(copy_layer(layer))
    blind.weight = nn.Parameter(blind.weight.detach().clone(), requires_grad=False)
    groups = blind.groups if isinstance(blind, Convolution) else 1
    size = inputs_of(layer) // groups
    for group, rows in enumerate(filters_of(blind).chunk(groups)):
        rows[:, columns[columns // size == group] % size] = 0
    return blind

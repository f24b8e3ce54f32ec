"""FoldedGhost: a Ghost module for inference, its norms folded into its convolutions."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ..common.copying import copy_layer, plain_attributes
from ..common.pickling import named_by_package
from ..layers.absent_weight import AbsentWeight
from ..layers.convolution import Convolution, WeightedLayer, as_convolution
from ..layers.ghost_module import GhostModule, activated, take_channels
from ..layers.layer_classes import is_plain, narrow
from ..layers.norm_affine import affine_of

fx.wrap("take_channels")  # a single node in this module's code, too, when torch.fx traces a folded network again


def fold_ghost(ghost: GhostModule) -> "FoldedGhost":
    """What a Ghost module computes in evaluation mode, with no norm left where it is a scale and a shift.

    Args:
        ghost: it is not changed.
    """
    maps = GhostMaps(
        folded_chain(ghost.cheap_operation),
        act=ghost.intrinsic_act,
        used=as_convolution(ghost.cheap_operation[0]).in_channels,
        intrinsic_channels=ghost.intrinsic_channels,
        channel_dim=ghost.channel_dim,
        source=ghost.ghost_source,
    )
    original_channels = torch.cat(ghost.original_channels())
    primary = folded_chain(ghost.primary_conv)
    folded = FoldedGhost(primary, maps, original_channels, ghost.source_positions(), ghost.channel_order)
    vars(folded).update(plain_attributes(ghost, folded))
    return folded


@named_by_package
class FoldedGhost(nn.Module):
    """A Ghost module for inference; :func:`fold_ghost` makes one.

    Args:
        primary: the convolution, and what is left of the norm and the activation after it.
        ghosts: makes the ghosts of the intrinsic maps.
        original_channels: (channels,) the original channel that each map becomes, in the order in which maps are computed.
        sources: (channels - intrinsic channels,) the intrinsic map that each depthwise ghost is made from.
        order: where each output channel stands among intrinsic maps and ghosts; None where they stay as they are computed.
    """

    order: Tensor | None

    def __init__(
        self, primary: nn.Sequential, ghosts: "GhostMaps", original_channels: Tensor, sources: Tensor, order: Tensor | None
    ):
        super().__init__()
        self.out_channels, self.intrinsic_channels = len(original_channels), ghosts.intrinsic_channels
        self.primary, self.ghosts = primary, ghosts
        self.channel_dim = ghosts.channel_dim
        self.original_channels, self.sources = original_channels, sources
        self.register_buffer("order", order)

    def __getattr__(self, name: str) -> Any:
        """
        Raises:
            AttributeError: there is no such attribute.
        """
        if name == "weight" and vars(self).get("tells_type"):
            weight = as_convolution(self.primary[0]).weight
            return AbsentWeight.like(weight, (self.out_channels, *weight.shape[1:]))
        return super().__getattr__(name)

    def can_make(self, wanted: Tensor) -> bool:
        """Whether the maps can be computed in this order: in any with the intrinsic ones first.

        That holds for both cheap operations, where the primary convolution has one group and both are weight and bias alone.
        """
        if torch.equal(wanted, self.original_channels):
            return True
        m = self.intrinsic_channels
        primary, cheap = self.primary[0], self.ghosts.cheap[0]
        flexible = as_convolution(primary).groups == 1 and is_plain(primary) and is_plain(cheap)
        return flexible and torch.equal(wanted[:m].sort().values, self.original_channels[:m].sort().values)

    def set_order(self, wanted: Tensor) -> None:
        """Give the channels in another order: ``wanted[i]`` is the original channel at place i."""
        if self.can_make(wanted):
            self._compute_in(wanted)
        index = torch.argsort(self.original_channels)[wanted]
        device = as_convolution(self.primary[0]).weight.device
        self.order = None if torch.equal(index, torch.arange(len(index))) else index.to(device)

    def _compute_in(self, wanted: Tensor) -> None:
        """Compute the maps in another order, the intrinsic ones first."""
        if torch.equal(wanted, self.original_channels):
            return
        m = self.intrinsic_channels
        place = torch.argsort(self.original_channels)[wanted]
        self.primary = _permuted(self.primary, place[:m])
        self.sources = torch.argsort(place[:m])[self.sources[place[m:] - m]]
        self.ghosts.set_order(place[m:] - m, place[:m], self.sources)
        self.original_channels = wanted

    # what code around a convolution asks of it
    in_channels = property(lambda self: self.primary[0].in_channels)
    kernel_size = property(lambda self: self.primary[0].kernel_size)
    stride = property(lambda self: self.primary[0].stride)
    padding = property(lambda self: self.primary[0].padding)
    dilation = property(lambda self: self.primary[0].dilation)
    groups = property(lambda self: self.primary[0].groups)
    padding_mode = property(lambda self: self.primary[0].padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary(x)
        out = torch.cat([intrinsic, self.ghosts(intrinsic)], dim=self.channel_dim)
        return out if self.order is None else take_channels(out, self.order, self.channel_dim)

    def extra_repr(self) -> str:
        return f"{self.primary[0].in_channels}, {self.out_channels}, intrinsic={self.intrinsic_channels}"


@named_by_package
class GhostMaps(nn.Module):
    """The ghosts of a Ghost module, made of its intrinsic maps.

    Args:
        cheap: the convolution, and what is left of the norm and the activation after it.
        act: what the intrinsic maps go through before; None for nothing.
        used: how many intrinsic maps, the first ones, the convolution takes where there is no ``source``.
        intrinsic_channels: the number of intrinsic maps.
        channel_dim: the dimension of the channels, counted from the end.
        source: the intrinsic map that each ghost is made from; None where they are the first, in order, or all of them.
    """

    source: Tensor | None

    def __init__(
        self,
        cheap: nn.Sequential,
        *,
        act: nn.Module | None,
        used: int,
        intrinsic_channels: int,
        channel_dim: int,
        source: Tensor | None,
    ):
        super().__init__()
        self.cheap, self.act, self.used = cheap, act, used
        self.intrinsic_channels, self.channel_dim = intrinsic_channels, channel_dim
        self.register_buffer("source", source)

    def set_order(self, order: Tensor, intrinsic: Tensor, sources: Tensor) -> None:
        """Make the ghosts in another order, of intrinsic maps in another order.

        Args:
            order: where each ghost stood before.
            intrinsic: where each intrinsic map stood before.
            sources: the map that each ghost is made from, both in the new order.
        """
        self.cheap = _permuted(self.cheap, order)
        conv = as_convolution(self.cheap[0])
        if conv.groups == 1:
            permute_inputs(conv, intrinsic)
        else:  # each ghost of a map of its own
            conv.in_channels = conv.groups = self.used = len(sources)
            in_place = torch.equal(sources, torch.arange(len(sources)))
            self.source = None if in_place else sources.to(conv.weight.device)
        if self.act is not None:
            self.act = narrow(self.act, intrinsic)

    def forward(self, intrinsic: Tensor) -> Tensor:
        sources = activated(intrinsic, self.act)
        if self.source is not None:
            sources = take_channels(sources, self.source, self.channel_dim)
        elif self.used < self.intrinsic_channels:
            sources = sources.narrow(self.channel_dim, 0, self.used)
        ghosts: Tensor = self.cheap(sources)
        return ghosts


def _permuted(chain: nn.Sequential, order: Tensor) -> nn.Sequential:
    return nn.Sequential(*(narrow(layer, order) for layer in chain))


def folded_chain(chain: nn.Sequential) -> nn.Sequential:
    """Convolution, norm and activation of a part of a Ghost module, the norm folded into the convolution."""
    conv, *rest = chain
    conv = copy_layer(conv)  # whose inputs may be put into another order
    if rest and (folded := fold_norm(as_convolution(conv), rest[0])) is not None:
        conv, act = folded
        rest = [*([act] if act is not None else []), *rest[1:]]
    return nn.Sequential(conv, *(layer for layer in rest if not isinstance(layer, nn.Identity)))


def fold_norm(layer: WeightedLayer, norm: nn.Module) -> tuple[nn.Module, nn.Module | None] | None:
    """A layer that computes ``norm(layer(x))``, and the activation that the norm ends with, if any.

    None where the norm is no fixed scale and shift, or the layer more than its weight and bias.

    Args:
        layer: a convolution or a fully connected layer.
        norm: in evaluation mode.
    """
    channels = getattr(layer, "out_channels", getattr(layer, "out_features", 0))
    if not is_plain(layer) or not hasattr(norm, "running_mean"):
        return None
    affine = affine_of(norm, channels, torch.empty(0, dtype=torch.float64, device=layer.weight.device))
    if affine is None or isinstance(norm, nn.modules.instancenorm._InstanceNorm):
        return None
    folded = copy_layer(layer)
    weight = layer.weight.detach().double() * affine.scale.view(-1, *[1] * (layer.weight.dim() - 1))
    bias = affine.shift if layer.bias is None else layer.bias.detach().double() * affine.scale + affine.shift
    folded.weight = nn.Parameter(weight.to(layer.weight), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(layer.weight), requires_grad=False)
    act = getattr(norm, "act", None)
    return folded, act if isinstance(act, nn.Module) and not isinstance(act, nn.Identity) else None


def permute_inputs(layer: Convolution, order: Tensor) -> None:
    """Let a convolution take inputs whose channel i is the channel ``order[i]`` of before; the layer is changed."""
    layer.weight = nn.Parameter(layer.weight.detach().index_select(1, order.to(layer.weight.device)), requires_grad=False)

"""FoldedGhost: a Ghost module for inference, its norms folded into its convolutions."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..common.copying import copy_layer
from ..common.pickling import named_by_package
from ..layers.ghost_module import GhostModule, narrow, take_channels
from ..layers.norm_affine import affine_of
from ..layers.patterns import is_plain


@named_by_package
class FoldedGhost(nn.Module):
    """What a Ghost module computes in evaluation mode, with no norm left where it is a scale and a shift.

    Args:
        ghost: it is not changed.

    Attributes:
        primary: the convolution, and what is left of the norm and the activation after it.
        ghosts: makes the ghosts of the intrinsic maps.
        order: where each output channel stands among intrinsic maps and ghosts; None where they stay as they are made.
    """

    def __init__(self, ghost: GhostModule):
        super().__init__()
        self.out_channels, self.intrinsic_channels = ghost.out_channels, ghost.intrinsic_channels
        self.primary, self.ghosts = folded_chain(ghost.primary_conv), GhostMaps(ghost)
        self.channel_dim = ghost._channel_dim
        self.made = torch.cat(ghost.original_channels())  # the original channel that each map becomes, as they are made
        self.sources = ghost.source_positions()  # the intrinsic map that each depthwise ghost is made from
        self.register_buffer("order", ghost.channel_order)

    order: Tensor | None

    def can_make(self, wanted: Tensor) -> bool:
        """Whether the maps can be made in this order: in any with the intrinsic ones first, whatever the cheap operation."""
        if torch.equal(wanted, self.made):
            return True
        m = self.intrinsic_channels
        convs: Any = (self.primary[0], self.ghosts.cheap[0])
        flexible = convs[0].groups == 1 and all(map(is_plain, convs))
        return flexible and torch.equal(wanted[:m].sort().values, self.made[:m].sort().values)

    def set_order(self, wanted: Tensor) -> None:
        """Give the channels in another order: ``wanted[i]`` is the original channel at place i."""
        if self.can_make(wanted):
            self._remake(wanted)
        index = torch.argsort(self.made)[wanted]
        conv: Any = self.primary[0]
        self.order = None if torch.equal(index, torch.arange(len(index))) else index.to(conv.weight.device)

    def _remake(self, wanted: Tensor) -> None:
        if torch.equal(wanted, self.made):
            return
        m = self.intrinsic_channels
        place = torch.argsort(self.made)[wanted]
        self.primary = _permuted(self.primary, place[:m])
        self.sources = torch.argsort(place[:m])[self.sources[place[m:] - m]]
        self.ghosts.set_order(place[m:] - m, place[:m], self.sources)
        self.made = wanted

    def permute_inputs(self, order: Tensor) -> None:
        """Take inputs whose channel i is the channel ``order[i]`` of before."""
        permute_inputs(self.primary[0], order)

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
        ghost: as of :class:`FoldedGhost`.

    Attributes:
        cheap: the convolution, and what is left of the norm and the activation after it.
        act: what the intrinsic maps go through before.
        source: the intrinsic map that each ghost is made from; None where they are the first, in order, or all of them.
    """

    def __init__(self, ghost: GhostModule):
        super().__init__()
        self.cheap, self.act = folded_chain(ghost.cheap_operation), ghost.intrinsic_act
        self.used: int = cast(Any, ghost.cheap_operation[0]).in_channels
        self.intrinsic_channels, self.channel_dim = ghost.intrinsic_channels, ghost._channel_dim
        self.register_buffer("source", ghost.ghost_source)

    source: Tensor | None

    def set_order(self, order: Tensor, intrinsic: Tensor, sources: Tensor) -> None:
        """Make the ghosts in another order, of intrinsic maps in another order.

        Args:
            order, intrinsic: where each ghost, and each intrinsic map, stood before.
            sources: the map that each ghost is made from, both in the new order.
        """
        self.cheap = _permuted(self.cheap, order)
        conv: Any = self.cheap[0]
        if conv.groups == 1:
            permute_inputs(conv, intrinsic)
        else:  # each of a map of its own
            conv.in_channels = conv.groups = self.used = len(sources)
            in_place = torch.equal(sources, torch.arange(len(sources)))
            self.source = None if in_place else sources.to(conv.weight.device)
        if self.act is not None:
            self.act = narrow(self.act, intrinsic)

    def forward(self, intrinsic: Tensor) -> Tensor:
        sources = intrinsic if self.act is None else self.act(intrinsic)
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
    if rest and (folded := fold_norm(conv, rest[0])) is not None:
        conv, act = folded
        rest = [*([act] if act is not None else []), *rest[1:]]
    return nn.Sequential(conv, *(layer for layer in rest if not isinstance(layer, nn.Identity)))


def fold_norm(layer: Any, norm: Any) -> tuple[nn.Module, nn.Module | None] | None:
    """A layer that computes what ``norm(layer(x))`` is, and the activation that the norm ends with; None where it can't be.

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


def permute_inputs(layer: Any, order: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().index_select(1, order.to(layer.weight.device)), requires_grad=False)

"""Intrinsic maps and ghosts that stay apart: what follows runs on each, so that no second copy of the maps is made."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from ..common.copying import copy_layer
from ..common.pickling import named_by_package
from ..graph.operations import (
    called_module,
    changes_input,
    is_carrier,
    is_channelwise,
    is_concatenation,
    is_pair,
    joined_values,
    starts_gate,
)
from ..layers.convolution import Convolution, as_convolution
from ..layers.layer_classes import is_kind, is_plain, narrow
from .folded_ghost import FoldedGhost


@named_by_package
class PartedMaps(nn.Module):
    """Concatenates maps that were made apart.

    Args:
        sizes: the numbers of channels of the maps.
        dim: the dimension of the channels, counted from the end.
    """

    def __init__(self, sizes: tuple[int, ...], dim: int):
        super().__init__()
        self.sizes, self.dim = sizes, dim

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, self.dim)

    def extra_repr(self) -> str:
        return f"{self.sizes}"


def part_maps(graph: fx.Graph, modules: dict[str, nn.Module], shared: set[str], hooked: set[str], split: bool) -> None:
    """Move the concatenation at the end of each Ghost module as far down a graph as it goes.

    Activations, pools, norms and depthwise convolutions are done on the intrinsic maps and on the ghosts apart; so are sums of
    maps that are made of as many. A convolution may become the sum of two. A concatenation that nobody reads is gone.

    Args:
        graph: a network for inference; it is changed.
        modules: the modules that it calls, by their targets; those for parts of maps are added.
        shared: targets that are called more than once, or read from outside.
        hooked: targets of modules with hooks, which are called once and on whole maps.
        split: whether a convolution becomes the sum of one for each part.
    """
    parter = _MapParter(graph, modules, shared, split)
    for node in list(graph.nodes):
        module = called_module(node, modules)
        if node.op == "call_module" and node.target in hooked:
            continue
        if isinstance(module, FoldedGhost):
            parter.expand(node, module)
        else:
            parter.pass_on(node, module)
    for node in reversed(list(graph.nodes)):
        if parter.join_of(node) is not None and not node.users:
            graph.erase_node(node)


class _MapParter:
    """Moves concatenations past one node after the other; the arguments are those of :func:`part_maps`."""

    def __init__(self, graph: fx.Graph, modules: dict[str, nn.Module], shared: set[str], split: bool):
        self.graph, self.modules, self.shared, self.split = graph, modules, shared, split
        self.whole: set[fx.Node] = set()  # concatenations that are changed in place, and therefore read as a whole

    def join_of(self, value: object) -> PartedMaps | None:
        """The concatenation that a value comes straight from, if it does."""
        if not isinstance(value, fx.Node) or value.op != "call_module" or value in self.whole:
            return None
        module = self.modules.get(str(value.target))
        return module if isinstance(module, PartedMaps) else None

    def expand(self, node: fx.Node, ghost: FoldedGhost) -> None:
        """Put a Ghost module's parts and their concatenation in the place of the module."""
        if ghost.order is not None or str(node.target) in self.shared:
            return
        with self.graph.inserting_before(node):
            conv, *rest = ghost.primary
            intrinsic = self._convolve(f"{node.target}.primary.0", as_convolution(conv), node.args[0])
            for i, layer in enumerate(rest, start=1):
                intrinsic = self._call(f"{node.target}.primary.{i}", layer, intrinsic)
            ghosts = self._call(f"{node.target}.ghosts", ghost.ghosts, intrinsic)
            sizes = (ghost.intrinsic_channels, ghost.out_channels - ghost.intrinsic_channels)
            self._join(node, [intrinsic, ghosts], PartedMaps(sizes, ghost.channel_dim), f"{node.target}.joined")

    def pass_on(self, node: fx.Node, module: nn.Module | None) -> None:
        """Do on each part what the node does on the whole, if it can be."""
        join = next((join for source in node.all_input_nodes if (join := self.join_of(source)) is not None), None)
        if join is None:
            return
        if changes_input(node, module) and len(node.all_input_nodes[0].users) > 1:
            self.whole.add(node.all_input_nodes[0])  # what others read afterwards is what this leaves
            return
        if is_concatenation(node):
            parts = [part for value in joined_values(node) for part in self._parts(value)]
            node.args = (parts, *node.args[1:])
        elif len(node.all_input_nodes) == 1 and is_channelwise(node, module):
            self._on_each(node, join)
        elif is_pair(node):
            if all(self._has_parts(source, join) for source in node.all_input_nodes):
                self._on_each(node, join)
        elif module is not None and str(node.target) not in self.shared:
            if is_carrier(module):
                self._on_each(node, join, module)
            elif isinstance(module, nn.modules.conv._ConvNd):
                with self.graph.inserting_before(node):
                    node.replace_all_uses_with(self._convolve(str(node.target), module, node.args[0]))
                self.graph.erase_node(node)

    def _parts(self, value: fx.Node) -> list[Argument]:
        return list(value.args) if self.join_of(value) is not None else [value]

    def _has_parts(self, value: fx.Node, like: PartedMaps) -> bool:
        """Whether parts of the sizes of another's can be had for nothing."""
        join = self.join_of(value)
        return self._is_gate(value, sum(like.sizes)) if join is None else join.sizes == like.sizes

    def _on_each(self, node: fx.Node, join: PartedMaps, layer: nn.Module | None = None) -> None:
        """Put copies of the node, or parts of its layer, that take one part each in the place of the node."""
        parts, start = [], 0
        with self.graph.inserting_before(node):
            for i, size in enumerate(join.sizes):

                def part(value: fx.Node, i: int = i, start: int = start, size: int = size) -> fx.Node:
                    if self.join_of(value) is not None:
                        return cast(fx.Node, value.args[i])
                    return self.graph.call_function(torch.narrow, (value, join.dim, start, size))

                if layer is None:
                    parts.append(self.graph.node_copy(node, part))
                else:
                    source = part(node.all_input_nodes[0])
                    parts.append(self._call(f"{node.target}.part{i}", _part_of(layer, start, size), source))
                start += size
            name = f"{node.target if layer is not None else node.name}.joined"
            self._join(node, parts, PartedMaps(join.sizes, join.dim), name)

    def _convolve(self, target: str, conv: Convolution, x: Argument) -> fx.Node:
        """A convolution as the sum of one for each part of its input: runtimes add one into the output of the other."""
        join = self.join_of(x)
        if join is None or not self.split or conv.groups > 1 or not is_plain(conv) or self._is_gate(x):
            return self._call(target, conv, x)
        total, start = None, 0
        for i, (size, source) in enumerate(zip(join.sizes, cast(fx.Node, x).args, strict=True)):
            part = copy_layer(conv)
            part.in_channels = size
            part.weight = nn.Parameter(conv.weight.detach().narrow(1, start, size).contiguous(), requires_grad=False)
            part.bias = conv.bias if i == 0 else None
            maps = self._call(f"{target}.part{i}", part, source)
            total = maps if total is None else self.graph.call_function(torch.add, (total, maps))
            start += size
        assert total is not None
        return total

    def _join(self, node: fx.Node, parts: Sequence[fx.Node], join: PartedMaps, name: str) -> None:
        """Put the concatenation of parts in the place of a node."""
        self.modules[name] = join
        node.replace_all_uses_with(self.graph.call_module(name, tuple(parts)))
        self.graph.erase_node(node)

    def _call(self, target: str, layer: nn.Module, x: Argument) -> fx.Node:
        self.modules[target] = layer
        return self.graph.call_module(target, (x,))

    def _is_gate(self, value: Argument, channels: int | None = None) -> bool:
        """Whether a value is one number for each channel, as of squeeze and excitation: made of a pool by 1x1 layers.

        Args:
            value: a node.
            channels: how many numbers there must be; None for any number.
        """
        node = cast(fx.Node, value)
        while len(node.all_input_nodes) == 1 or self.join_of(node) is not None:
            module = called_module(node, self.modules)
            if starts_gate(node, module):
                return True
            pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and is_plain(module)
            if pointwise:
                if channels not in (None, cast(nn.Conv2d, module).out_channels):
                    return False  # one number for several channels
                channels = None
            elif self.join_of(node) is None and not is_channelwise(node, module):
                return False
            node = node.all_input_nodes[0]
        return False


def _part_of(layer: nn.Module, start: int, size: int) -> nn.Module:
    """The part of a layer, such as a norm or a depthwise convolution, that acts on some channels."""
    part = narrow(layer, torch.arange(start, start + size))
    if is_kind(layer, "conv"):
        conv = as_convolution(part)
        conv.in_channels = conv.groups = size
    return part

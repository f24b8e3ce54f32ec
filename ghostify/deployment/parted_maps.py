"""Intrinsic maps and ghosts that stay apart: what follows runs on each, so that no second copy of the maps is made."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ..common.copying import copy_layer
from ..common.pickling import named_by_package
from ..graph.operations import (
    called_module,
    changes_input,
    is_carrier,
    is_channelwise,
    is_concatenation,
    is_pair,
    starts_gate,
)
from ..layers.ghost_module import narrow
from ..layers.patterns import is_kind, is_plain
from .folded_ghost import FoldedGhost


@named_by_package
class PartedMaps(nn.Module):
    """Concatenates maps that were made apart.

    Args:
        sizes: channels of each.
        dim: of the channels, counted from the end.
    """

    def __init__(self, sizes: tuple[int, ...], dim: int):
        super().__init__()
        self.sizes, self.dim = sizes, dim

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, self.dim)

    def extra_repr(self) -> str:
        return f"{self.sizes}"


class MapParting:
    """Moves the concatenation at the end of each Ghost module as far down a graph as it goes.

    Activations, pools, norms and depthwise convolutions are done on the intrinsic maps and on the ghosts apart; so are sums of
    maps that are made of as many. A convolution may become the sum of two. A concatenation that nobody reads is gone.

    Args:
        graph: of a network for inference; it is changed.
        modules: those it calls, by their target; those that are made for parts are added.
        shared: targets that are called more than once, or read from outside.
        split: whether a convolution becomes the sum of one for each part.
    """

    def __init__(self, graph: fx.Graph, modules: dict[str, Any], shared: set[str], split: bool):
        self.graph, self.modules, self.shared, self.split = graph, modules, shared, split
        self.whole: set[fx.Node] = set()
        for node in list(graph.nodes):
            if node.op == "call_module" and isinstance(modules[str(node.target)], FoldedGhost):
                self._expand(node, modules[str(node.target)])
            else:
                self._pass(node)
        for node in reversed(list(graph.nodes)):
            if self.join_of(node) is not None and not node.users:
                graph.erase_node(node)

    def join_of(self, value: Any) -> PartedMaps | None:
        """The concatenation that a value comes straight from, if it does."""
        if not isinstance(value, fx.Node) or value.op != "call_module" or value in self.whole:
            return None
        module = self.modules.get(str(value.target))
        return module if isinstance(module, PartedMaps) else None

    def _parts(self, value: Any) -> list[Any]:
        return list(value.args) if self.join_of(value) is not None else [value]

    def _has_parts(self, value: fx.Node, like: PartedMaps) -> bool:
        """Whether parts of the sizes of another's can be had for nothing."""
        join = self.join_of(value)
        return self._is_gate(value) if join is None else join.sizes == like.sizes

    def _expand(self, node: fx.Node, ghost: FoldedGhost) -> None:
        if ghost.order is not None or str(node.target) in self.shared:
            return
        with self.graph.inserting_before(node):
            conv, *rest = ghost.primary
            intrinsic = self._convolve(f"{node.target}.primary.0", conv, node.args[0])
            for i, layer in enumerate(rest, start=1):
                intrinsic = self._call(f"{node.target}.primary.{i}", layer, intrinsic)
            made = self._call(f"{node.target}.ghosts", ghost.ghosts, intrinsic)
            sizes = (ghost.intrinsic_channels, ghost.out_channels - ghost.intrinsic_channels)
            self._join(node, [intrinsic, made], PartedMaps(sizes, ghost.channel_dim), f"{node.target}.joined")

    def _pass(self, node: fx.Node) -> None:
        """Do on each part what the node does on the whole, if it can be."""
        join = next((found for source in node.all_input_nodes if (found := self.join_of(source)) is not None), None)
        if join is None:
            return
        module = called_module(node, self.modules)
        if changes_input(node, module) and len(node.all_input_nodes[0].users) > 1:
            self.whole.add(node.all_input_nodes[0])  # what others read afterwards is what this leaves
            return
        if is_concatenation(node):
            node.args = ([part for value in node.args[0] for part in self._parts(value)], *node.args[1:])  # type: ignore[union-attr]
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

    def _on_each(self, node: fx.Node, join: PartedMaps, layer: nn.Module | None = None) -> None:
        """Copies of the node, or parts of its layer, that take one part each."""
        parts, start = [], 0
        with self.graph.inserting_before(node):
            for i, size in enumerate(join.sizes):

                def part(value: fx.Node, i: int = i, start: int = start, size: int = size) -> Any:
                    if self.join_of(value) is not None:
                        return value.args[i]
                    return self.graph.call_function(torch.narrow, (value, join.dim, start, size))

                if layer is None:
                    parts.append(self.graph.node_copy(node, part))
                else:
                    mine = narrow(layer, torch.arange(start, start + size))
                    if is_kind(layer, "conv"):
                        mine.in_channels = mine.groups = size
                    parts.append(self._call(f"{node.target}.part{i}", mine, part(node.all_input_nodes[0])))
                start += size
            name = f"{node.target if layer is not None else node.name}.joined"
            self._join(node, parts, PartedMaps(join.sizes, join.dim), name)

    def _convolve(self, target: str, conv: Any, x: Any) -> fx.Node:
        """A convolution as the sum of one for each part of its input: runtimes add one into the output of the other."""
        join = self.join_of(x)
        if join is None or not self.split or conv.groups > 1 or not is_plain(conv) or self._is_gate(x):
            return self._call(target, conv, x)
        total, start = None, 0
        for i, (size, source) in enumerate(zip(join.sizes, x.args, strict=True)):
            part = copy_layer(conv)
            part.in_channels = size
            part.weight = nn.Parameter(conv.weight.detach().narrow(1, start, size).contiguous(), requires_grad=False)
            part.bias = conv.bias if i == 0 else None
            made = self._call(f"{target}.part{i}", part, source)
            total = made if total is None else self.graph.call_function(torch.add, (made, total))
            start += size
        assert total is not None
        return total

    def _join(self, node: fx.Node, parts: list[Any], join: PartedMaps, name: str) -> None:
        self.modules[name] = join
        node.replace_all_uses_with(self.graph.call_module(name, tuple(parts)))
        self.graph.erase_node(node)

    def _call(self, target: str, layer: nn.Module, x: Any) -> fx.Node:
        self.modules[target] = layer
        return self.graph.call_module(target, (x,))

    def _is_gate(self, node: fx.Node) -> bool:
        """One number for each channel, as of squeeze and excitation: made of a pool over all places by 1x1 layers."""
        while len(node.all_input_nodes) == 1 or self.join_of(node) is not None:
            module = called_module(node, self.modules)
            if starts_gate(node, module):
                return True
            pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and is_plain(module)
            if not pointwise and self.join_of(node) is None and not is_channelwise(node, module):
                return False
            node = node.all_input_nodes[0]
        return False

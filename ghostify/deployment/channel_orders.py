"""In which order the channels of each value in a graph may stand, so that Ghost modules need not restore the original one.

Values that are added, or that an activation or a pool makes of each other, have one order in common: they are a stream. The
order of a stream is free where each layer that makes it can give its channels in another order and each layer that reads it can
take them so: convolutions and fully connected layers do, by permuting their weights once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..graph.operations import (
    is_carrier,
    is_channelwise,
    is_concatenation,
    is_pair,
    is_pool,
    is_size,
    joined_values,
)
from ..layers.patterns import is_plain
from .folded_ghost import FoldedGhost


@dataclass
class ChannelStream:
    """Values whose channels stand in one order.

    Attributes:
        ghosts: calls of Ghost modules that make it.
        free: calls of layers that make it in whatever order.
        carriers: calls of layers with numbers for each channel, which are to be permuted with it.
        takers: calls of layers that take it in whatever order.
        needs: values of it, and who reads them and needs the original order.
        cats: concatenations that make it.
        channels: how many, where known.
        fixed: why it must stand in the original order; empty if it need not.
    """

    ghosts: list[fx.Node] = field(default_factory=list)
    free: list[fx.Node] = field(default_factory=list)
    carriers: list[fx.Node] = field(default_factory=list)
    takers: list[fx.Node] = field(default_factory=list)
    needs: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    cats: list[fx.Node] = field(default_factory=list)
    channels: int | None = None
    fixed: str = ""
    pooled: bool = False
    settled: bool = False
    dim: int = -3
    order: Tensor | None = None

    def join(self, other: "ChannelStream") -> None:
        for name in ("ghosts", "free", "carriers", "takers", "needs", "cats"):
            getattr(self, name).extend(getattr(other, name))
        self.channels = self.channels or other.channels
        self.fixed = self.fixed or other.fixed
        self.pooled = self.pooled or other.pooled
        self.dim = other.dim if other.ghosts else self.dim


class ChannelOrders:
    """Finds the streams of a graph, and an order for each.

    Args:
        graph: of a network for inference.
        modules: those it calls, by their target.
        shared: targets that are called more than once, or read from outside.
    """

    def __init__(self, graph: fx.Graph, modules: Mapping[str, nn.Module], shared: set[str]):
        self.modules, self.shared = modules, shared
        self.of: dict[fx.Node, ChannelStream] = {}
        self.nodes = list(graph.nodes)
        for node in self.nodes:
            self.of[node] = ChannelStream()
            self._read(node)
        self._settle()

    @property
    def streams(self) -> list[ChannelStream]:
        return list({id(stream): stream for stream in self.of.values()}.values())

    def _read(self, node: fx.Node) -> None:
        """What a node does to the order of its inputs."""
        if node.op == "call_module":
            self._module(node, self.modules[str(node.target)])
        elif is_channelwise(node, None):
            self._tie(node, node.all_input_nodes[:1] if node.op == "call_method" else node.all_input_nodes)
            self.of[node].pooled |= is_pool(node, None)
        elif is_pair(node):
            self._tie(node, node.all_input_nodes)
        elif is_concatenation(node):
            self.of[node].cats.append(node)
        elif is_size(node):
            self.of[node].fixed = "a size"
        else:
            self._bar(node)

    def _module(self, node: fx.Node, module: Any) -> None:
        source = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
        alone = str(node.target) not in self.shared or not any(True for _ in module.parameters())
        if source is None or not alone:
            self._bar(node)
        elif isinstance(module, FoldedGhost):
            self._take(node, source, module.primary[0])
            self.of[node].ghosts.append(node)
            self.of[node].channels, self.of[node].dim = module.out_channels, module.channel_dim
        elif is_carrier(module):
            self._tie(node, [source])
            self.of[node].carriers.append(node)
        elif isinstance(module, nn.modules.conv._ConvNd) and is_plain(module):
            self._take(node, source, module)
            self.of[node].channels = module.out_channels
            if module.groups == 1:
                self.of[node].free.append(node)
            else:
                self.of[node].fixed = f"{node.target} is a grouped convolution"
        elif is_channelwise(node, module):
            self._tie(node, [source])
            self.of[node].pooled |= is_pool(node, module)
        else:
            self._bar(node)

    def _tie(self, node: fx.Node, sources: list[fx.Node]) -> None:
        for source in sources:
            stream, other = self.of[node], self.of[source]
            if stream is not other:
                other.join(stream)
                for key, value in self.of.items():
                    if value is stream:
                        self.of[key] = other

    def _take(self, node: fx.Node, source: fx.Node, layer: Any) -> None:
        if layer.groups == 1 and is_plain(layer):
            self.of[source].takers.append(node)
        else:
            self.of[source].needs.append((source, node))

    def _bar(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self.of[source].needs.append((source, node))
        self.of[node].fixed = f"{_told(node)} has channels of its own"

    def _settle(self) -> None:
        """An order for each stream, or the reason why it keeps the original one."""
        changed = True
        while changed:  # what a concatenation in the original order joins must stand in it, too
            changed = False
            for stream in self.streams:
                for cat in stream.cats:
                    parts = [self.of[source] for source in joined_values(cat)]
                    makers = len(stream.cats) + len(stream.ghosts) + len(stream.free)
                    unknown = any(self._count(part) is None for part in parts)
                    if stream.fixed or makers > 1 or unknown:
                        for one in (stream, *parts):
                            changed = changed or not one.fixed
                            one.fixed = one.fixed or f"{_told(cat)} joins channels whose order is fixed"
        for node in self.nodes:
            stream = self.of[node]
            if not stream.settled and not stream.fixed:
                self._choose(stream)

    def _choose(self, stream: ChannelStream) -> None:
        stream.settled = True
        if stream.cats:
            stream.order = self._joined(stream.cats[0])
            return
        if not stream.ghosts:
            return
        ghosts: list[Any] = [self.modules[str(node.target)] for node in stream.ghosts]
        able = {tuple(ghost.made.tolist()): sum(one.can_make(ghost.made) for one in ghosts) for ghost in ghosts}
        best, same = max(able.items(), key=lambda pair: pair[1])
        restores = len({value for value, _ in stream.needs})
        if restores > same or (restores == same and not stream.pooled):
            stream.fixed = f"{_told(stream.needs[0][1])} needs the original order"
            return
        order = torch.tensor(best)
        stream.order = None if torch.equal(order, torch.arange(len(order))) else order

    def _count(self, stream: ChannelStream) -> int | None:
        """Channels of a stream, where known."""
        if stream.channels is None and stream.cats:
            counts = [self._count(self.of[source]) for source in joined_values(stream.cats[0])]
            stream.channels = None if None in counts else sum(map(int, counts))  # type: ignore[arg-type]
        return stream.channels

    def _joined(self, cat: fx.Node) -> Tensor | None:
        """The order of what a concatenation joins."""
        offset, orders, moved = 0, [], False
        for source in joined_values(cat):
            part = self.of[source]
            if not part.settled and not part.fixed:
                self._choose(part)
            channels = self._count(part)
            assert channels is not None
            moved = moved or part.order is not None
            orders.append(offset + (torch.arange(channels) if part.order is None else part.order))
            offset += channels
        return torch.cat(orders) if moved else None


def _told(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else f"{getattr(node.target, '__name__', node.target)}"

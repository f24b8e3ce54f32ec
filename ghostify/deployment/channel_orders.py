"""In which order the channels of each value in a graph may stand, so that Ghost modules need not restore the original one.

The order of a stream of values (:mod:`.channel_streams`) is free where each layer that makes it can give its channels in
another order and each layer that reads it can take them so. Convolutions of one group do, by permuting their weights once;
fully connected layers do not, since what they read has left the maps.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn

from ..graph.operations import joined_values, name_of
from .channel_streams import ChannelStream, channel_streams
from .folded_ghost import FoldedGhost


@dataclass(frozen=True)
class ChannelOrder:
    """The order of the channels of some values, and the nodes that have to do with it.

    Attributes:
        order: (channels,) the original channel that stands at each place; None for the original order.
        fixed: why it must be the original order; empty where it need not.
        dim: the dimension of the channels, counted from the end; 0 where the order is the original one.
        ghosts: calls of Ghost modules that make the values.
        convs: calls of convolutions of one group that make the values.
        carriers: calls of layers with values for each channel, which are to be permuted as the values are.
        takers: calls of convolutions and Ghost modules that take the values in any order.
        needs: pairs of a value and a node that reads it and needs the original order.
    """

    order: Tensor | None
    fixed: str
    dim: int
    ghosts: tuple[fx.Node, ...]
    convs: tuple[fx.Node, ...]
    carriers: tuple[fx.Node, ...]
    takers: tuple[fx.Node, ...]
    needs: tuple[tuple[fx.Node, fx.Node], ...]


def channel_orders(graph: fx.Graph, modules: Mapping[str, nn.Module], shared: set[str]) -> list[ChannelOrder]:
    """An order for each set of values of a graph that have their order in common.

    Args:
        graph: a network for inference; it is not changed.
        modules: the modules that it calls, by their targets; Ghost modules as :class:`FoldedGhost`.
        shared: targets that are called more than once, or read from outside.
    """
    chooser = _OrderChooser(channel_streams(graph, modules, shared), modules)
    chooser.fix_mixed_numbers()
    chooser.fix_joined()
    return [chooser.result(stream) for stream in chooser.streams]


class _OrderChooser:
    """Chooses an order for each stream.

    Args:
        stream_of: the stream of each node's value.
        modules: the modules that the graph calls, by their targets.
    """

    def __init__(self, stream_of: Mapping[fx.Node, ChannelStream], modules: Mapping[str, nn.Module]):
        self.stream_of, self.modules = stream_of, modules
        self.streams = list({id(stream): stream for stream in stream_of.values()}.values())

    def fix_mixed_numbers(self) -> None:
        """Where a map of one channel acts on all others, the two have no order in common."""
        for stream in self.streams:
            if len({self._out_channels(node) for node in stream.makers}) > 1:
                stream.fixed = stream.fixed or "it combines values of different numbers of channels"

    def fix_joined(self) -> None:
        """What a concatenation in the original order joins must stand in the original order, too."""
        changed = True
        while changed:
            changed = False
            for stream in self.streams:
                for concatenation in stream.concatenations:
                    parts = [self.stream_of[source] for source in joined_values(concatenation)]
                    makers = len(stream.concatenations) + len(stream.makers)
                    if stream.fixed or makers > 1 or any(self._channels(part) is None for part in parts):
                        for one in (stream, *parts):
                            changed = changed or not one.fixed
                            one.fixed = one.fixed or f"{name_of(concatenation)} joins channels whose order is fixed"

    def result(self, stream: ChannelStream) -> ChannelOrder:
        """The order of a stream, or the reason why it keeps the original one."""
        ghosts = [node for node in stream.makers if isinstance(self._module(node), FoldedGhost)]
        fixed = stream.fixed or self._restored_anyway(stream)
        order = None if fixed else self._order(stream)
        return ChannelOrder(
            order=order,
            fixed=fixed,
            dim=0 if order is None else self._dim(stream),
            ghosts=tuple(ghosts),
            convs=tuple(node for node in stream.makers if node not in ghosts and getattr(self._module(node), "groups", 0) == 1),
            carriers=tuple(stream.carriers),
            takers=tuple(stream.takers),
            needs=tuple(stream.needs),
        )

    def _order(self, stream: ChannelStream) -> Tensor | None:
        """The order of a stream that is not fixed; None for the original one."""
        if stream.concatenations:
            return self._joined_order(stream.concatenations[0])
        if stream.fixed or self._restored_anyway(stream) or not (makes := self._makes(stream)):
            return None
        order = torch.tensor(max(makes.items(), key=lambda pair: pair[1])[0])
        return None if torch.equal(order, torch.arange(len(order))) else order

    def _joined_order(self, concatenation: fx.Node) -> Tensor | None:
        """The order of the values that a concatenation joins, one after the other."""
        offset, orders, moved = 0, [], False
        for source in joined_values(concatenation):
            part = self.stream_of[source]
            order, channels = None if part.fixed else self._order(part), self._channels(part)
            assert channels is not None
            moved = moved or order is not None
            orders.append(offset + (torch.arange(channels) if order is None else order))
            offset += channels
        return torch.cat(orders) if moved else None

    def _restored_anyway(self, stream: ChannelStream) -> str:
        """Why the Ghost modules restore the original order themselves: readers would have to do so as often; empty if not."""
        makes = {} if stream.concatenations else self._makes(stream)
        restores, same = len({value for value, _ in stream.needs}), max(makes.values(), default=0)
        if makes and (restores > same or (restores == same and not stream.pooled)):
            return f"{name_of(stream.needs[0][1])} needs the original order"
        return ""

    def _makes(self, stream: ChannelStream) -> dict[tuple[int, ...], int]:
        """The orders in which the Ghost modules of a stream compute their channels, and how many of them can give each."""
        ghosts = list(self._ghosts(stream.makers))
        orders = [ghost.original_channels for ghost in ghosts]
        return {tuple(order.tolist()): sum(ghost.can_make(order) for ghost in ghosts) for order in orders}

    def _ghosts(self, nodes: Iterable[fx.Node]) -> Iterator[FoldedGhost]:
        return (module for node in nodes if isinstance(module := self._module(node), FoldedGhost))

    def _channels(self, stream: ChannelStream) -> int | None:
        """The number of channels of a stream, where it is known."""
        if stream.makers:
            return self._out_channels(stream.makers[0])
        if not stream.concatenations:
            return None
        parts = [self.stream_of[source] for source in joined_values(stream.concatenations[0])]
        counts = [None if part is stream else self._channels(part) for part in parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def _dim(self, stream: ChannelStream) -> int:
        """The dimension of the channels of a stream that is not fixed, counted from the end."""
        if stream.concatenations:
            return next(self._dim(self.stream_of[source]) for source in joined_values(stream.concatenations[0]))
        maker = self._module(stream.makers[0])
        return maker.channel_dim if isinstance(maker, FoldedGhost) else 1 - cast(Tensor, maker.weight).dim()

    def _module(self, node: fx.Node) -> nn.Module:
        return self.modules[str(node.target)]

    def _out_channels(self, node: fx.Node) -> int:
        return cast(int, self._module(node).out_channels)

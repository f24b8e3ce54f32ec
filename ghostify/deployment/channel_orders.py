"""In which order the channels of each value in a graph stand, so that Ghost modules need not restore the original one.

The order of a stream of values (:mod:`.channel_streams`) is free where each layer that makes it can give its channels in
another order and each layer that reads it can take them so. Convolutions of one group do, by permuting their weights once;
fully connected layers do not, since what they read has left the maps.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from ..graph.operations import name_of
from .channel_streams import ChannelStream, ChannelStreams
from .folded_ghost import FoldedGhost


class ChannelOrders:
    """An order for each stream of a graph.

    Args:
        streams: those of the graph.
        modules: the modules that the graph calls, by their targets; Ghost modules as :class:`FoldedGhost`.
    """

    def __init__(self, streams: ChannelStreams, modules: Mapping[str, nn.Module]):
        self.runs, self.modules = streams.runs, modules
        self._fixed = {stream: stream.fixed or self._restored_anyway(stream) for stream in streams.streams}
        self._orders = {stream: None if reason else self._order(stream) for stream, reason in self._fixed.items()}

    def of(self, value: fx.Node) -> Tensor | None:
        """(channels,) the original channel that stands at each place of a value; None for the original order."""
        offset, parts, moved = 0, [], False
        for stream in self.runs.get(value, ()):
            order = self._orders[stream]
            moved = moved or order is not None
            parts.append(offset + (torch.arange(stream.channels) if order is None else order))
            offset += stream.channels
        return torch.cat(parts) if moved else None

    def reason_for(self, ghost: fx.Node) -> str:
        """Why a Ghost module restores the original order itself; empty where what reads its channels does not need it."""
        return next(reason for stream, reason in self._fixed.items() if ghost in stream.makers)

    def _order(self, stream: ChannelStream) -> Tensor | None:
        """The order in which most Ghost modules of a stream can compute their channels."""
        if not (makes := self._makes(stream)):
            return None
        order = torch.tensor(max(makes.items(), key=lambda pair: pair[1])[0])
        return None if torch.equal(order, torch.arange(len(order))) else order

    def _restored_anyway(self, stream: ChannelStream) -> str:
        """Why the Ghost modules restore the original order themselves: readers would have to do so as often; empty if not."""
        makes = self._makes(stream)
        restores, same = len({value for value, _ in stream.needs}), max(makes.values(), default=0)
        if makes and (restores > same or (restores == same and not stream.pooled)):
            return f"{name_of(stream.needs[0][1])} needs the original order"
        return ""

    def _makes(self, stream: ChannelStream) -> dict[tuple[int, ...], int]:
        """The orders in which the Ghost modules of a stream compute their channels, and how many of them can give each."""
        ghosts = list(self._ghosts(stream))
        orders = [ghost.original_channels for ghost in ghosts]
        return {tuple(order.tolist()): sum(ghost.can_make(order) for ghost in ghosts) for order in orders}

    def _ghosts(self, stream: ChannelStream) -> Iterator[FoldedGhost]:
        modules = (self.modules[str(node.target)] for node in stream.makers)
        return (module for module in modules if isinstance(module, FoldedGhost))

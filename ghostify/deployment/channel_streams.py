"""Streams: the spans of a graph as :func:`ghostify.fold` sees them, who gives and takes their channels in any order.

Values that are added, or that an activation or a pool makes of each other, have the order of their channels in common.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from torch import fx, nn

from ..graph.operations import called_module, is_concatenation, is_pair, is_pool, is_size, name_of
from ..graph.span_reader import span_layouts
from ..layers.convolution import as_convolution
from ..layers.layer_classes import is_plain
from .folded_ghost import FoldedGhost


@dataclass(eq=False)
class ChannelStream:
    """Channels that stand in one order wherever they go.

    Attributes:
        channels: how many.
        makers: all calls of the layers that make them; of those that are added, the later arguments of sums first.
        needs: values that are these channels alone, and the nodes that read them and need the original order.
        fixed: why the stream must stand in the original order; empty where it need not.
        pooled: whether a pool makes a value that is these channels alone.
    """

    channels: int
    makers: tuple[fx.Node, ...]
    needs: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    fixed: str = ""
    pooled: bool = False

    def fix(self, reason: str) -> None:
        """The stream must stand in the original order; the first reason stays."""
        self.fixed = self.fixed or reason


@dataclass(frozen=True)
class ChannelStreams:
    """The streams of a graph.

    Attributes:
        streams: in the order in which their first makers are called.
        runs: the streams of each value, one after the other; values whose channels are not the second dimension are left out.
        dims: the dimension of the channels of each of these values, from the end where it is known from there.
        needs: pairs of a value and a node that reads it and needs the original order.
    """

    streams: list[ChannelStream]
    runs: dict[fx.Node, tuple[ChannelStream, ...]]
    dims: dict[fx.Node, int]
    needs: list[tuple[fx.Node, fx.Node]]


def channel_streams(graph: fx.Graph, modules: Mapping[str, nn.Module], shared: set[str], hooked: set[str]) -> ChannelStreams:
    """The streams of a graph, read off its spans.

    Args:
        graph: a network for inference; it is not changed.
        modules: the modules that it calls, by their targets; Ghost modules as :class:`FoldedGhost`.
        shared: targets that are called more than once, or read from outside.
        hooked: targets of modules with hooks, which take and give channels in the original order.
    """
    bound = {target for target in shared if target in modules and _has_values(modules[target])} | hooked
    spans, layouts = span_layouts(graph, {target: _in_spans(module) for target, module in modules.items()}, bound)
    calls: dict[str, list[fx.Node]] = defaultdict(list)  # more than one of a layer that is bound
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)].append(node)
    makers = [tuple(node for target in reversed(span.makers) for node in calls[target]) for span in spans]
    streams = [ChannelStream(span.channels, nodes) for span, nodes in zip(spans, makers, strict=True)]
    of_maps = {node: layout for node, layout in layouts.items() if layout.axis == "second" and not layout.flat}
    runs = {node: tuple(streams[i] for i in layout.runs) for node, layout in of_maps.items()}
    dims = {node: 1 if layout.places is None else -1 - layout.places for node, layout in of_maps.items()}
    reader = _StreamReader(ChannelStreams(streams, runs, dims, []), modules, bound)
    for node in graph.nodes:
        reader.read(node)
    return reader.result


def _has_values(module: nn.Module) -> bool:
    return any(True for _ in chain(module.parameters(), module.buffers()))


def _in_spans(module: nn.Module) -> nn.Module:
    """The module as spans know it: a Ghost module is a convolution of as many channels."""
    if not isinstance(module, FoldedGhost):
        return module
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[-2 - module.channel_dim]
    return conv(as_convolution(module.primary[0]).in_channels, module.out_channels, 1, device="meta")


class _StreamReader:
    """Notes who needs the original order of the streams of a graph.

    Args:
        result: the streams; their needs and reasons are added.
        modules: those of the graph, by their targets.
        bound: targets of layers with values for each channel that can't be changed.
    """

    def __init__(self, result: ChannelStreams, modules: Mapping[str, nn.Module], bound: set[str]):
        self.result, self.modules, self.bound = result, modules, bound
        self.makers = {maker.target for stream in result.streams for maker in stream.makers}
        for stream in result.streams:
            for maker in stream.makers:
                cut = "" if maker in result.runs else f"{maker.target} is combined with channels that are cut out of others"
                self._fix([stream], self._own_order(maker) or cut)

    def read(self, node: fx.Node) -> None:
        """Note what a node does to the order of the channels of its inputs."""
        runs = self.result.runs
        reads = [source for source in node.all_input_nodes if source in runs]
        if node.op == "call_module" and node.target in self.makers:
            if not self._takes_any_order(node):
                self._need(reads, node)
        elif node in runs:
            self._carry(node, reads)
        elif not is_size(node):
            self._need(reads, node)

    def _own_order(self, maker: fx.Node) -> str:
        """Why a layer gives its channels in the original order only; empty where it can give any."""
        module = self.modules[str(maker.target)]
        if str(maker.target) in self.bound:
            return f"{maker.target} is called more than once, is hooked, or its weights are read from outside"
        if isinstance(module, FoldedGhost):
            return ""  # in whatever order it computes them
        if not isinstance(module, nn.modules.conv._ConvNd) or not is_plain(module):
            return f"{maker.target} has channels of its own"
        return "" if module.groups == 1 else f"{maker.target} is a grouped convolution"

    def _takes_any_order(self, node: fx.Node) -> bool:
        """Whether a layer is a convolution of one group, whose weights can be permuted."""
        module = self.modules[str(node.target)]
        conv = module.primary[0] if isinstance(module, FoldedGhost) else module
        convolution = isinstance(conv, nn.modules.conv._ConvNd) and is_plain(conv) and conv.groups == 1
        return convolution and str(node.target) not in self.bound

    def _carry(self, node: fx.Node, reads: list[fx.Node]) -> None:
        """A node gives the channels of what it reads as they come."""
        runs = self.result.runs
        if is_pool(node, called_module(node, self.modules)) and len(runs[node]) == 1:
            runs[node][0].pooled = True
        if is_concatenation(node):
            return
        known = [runs[source] for source in reads]
        all_known = len(reads) == len(node.all_input_nodes) or not is_pair(node)
        alike = [given == runs[node] or sum(stream.channels for stream in given) == 1 for given in known]
        if not all_known or not all(alike) or runs[node] not in known:
            self._fix(chain(runs[node], *known), f"{name_of(node)} combines channels whose order is fixed")

    def _need(self, values: list[fx.Node], node: fx.Node) -> None:
        """A node takes these values in the original order only."""
        for value in values:
            self.result.needs.append((value, node))
            if len(self.result.runs[value]) == 1:
                self.result.runs[value][0].needs.append((value, node))

    def _fix(self, streams: Iterable[ChannelStream], reason: str) -> None:
        for stream in streams:
            stream.fix(reason)

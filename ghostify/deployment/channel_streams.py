"""Which values of a graph have the order of their channels in common, and which layers make, carry and take them.

Values that are added, or that an activation or a pool makes of each other, have one order in common: they are a stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from ..graph.operations import is_carrier, is_channelwise, is_concatenation, is_pair, is_pool, is_size, name_of
from ..layers.layer_classes import is_plain
from .folded_ghost import FoldedGhost


@dataclass
class ChannelStream:
    """Values whose channels stand in one order; it grows while the graph is read.

    Attributes:
        makers: calls of Ghost modules and of convolutions that make the values.
        concatenations: those that make the values.
        carriers: calls of layers with values for each channel, which are to be permuted with the stream.
        takers: calls of layers that take the values in any order of their channels.
        needs: pairs of a value and a node that reads it and needs the original order.
        fixed: why the stream must stand in the original order; empty where it need not.
        pooled: whether a pool makes a value of the stream.
    """

    makers: list[fx.Node] = field(default_factory=list)
    concatenations: list[fx.Node] = field(default_factory=list)
    carriers: list[fx.Node] = field(default_factory=list)
    takers: list[fx.Node] = field(default_factory=list)
    needs: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    fixed: str = ""
    pooled: bool = False

    def absorb(self, other: "ChannelStream") -> None:
        """Take in the values of another stream."""
        self.makers += other.makers
        self.concatenations += other.concatenations
        self.carriers += other.carriers
        self.takers += other.takers
        self.needs += other.needs
        self.fixed = self.fixed or other.fixed
        self.pooled = self.pooled or other.pooled


def channel_streams(graph: fx.Graph, modules: Mapping[str, nn.Module], shared: set[str]) -> dict[fx.Node, ChannelStream]:
    """The stream of each node's value.

    Args:
        graph: a network for inference.
        modules: the modules that it calls, by their targets.
        shared: targets that are called more than once, or read from outside.
    """
    reader = _StreamReader(modules, shared)
    for node in graph.nodes:
        reader.read(node)
    return reader.stream_of


class _StreamReader:
    """Reads the nodes of a graph in order; values read so far have their streams in ``stream_of``."""

    def __init__(self, modules: Mapping[str, nn.Module], shared: set[str]):
        self.modules, self.shared = modules, shared
        self.stream_of: dict[fx.Node, ChannelStream] = {}

    def read(self, node: fx.Node) -> None:
        """Note what a node does to the order of the channels of its inputs."""
        self.stream_of[node] = ChannelStream()
        if node.op == "call_module":
            self._read_call(node, self.modules[str(node.target)])
        elif is_channelwise(node, None):
            self._tie(node, node.all_input_nodes[:1] if node.op == "call_method" else node.all_input_nodes)
            self.stream_of[node].pooled |= is_pool(node, None)
        elif is_pair(node):
            self._tie(node, node.all_input_nodes)
        elif is_concatenation(node):
            self.stream_of[node].concatenations.append(node)
        elif is_size(node):
            self.stream_of[node].fixed = "a size"
        else:
            self._bar(node)

    def _read_call(self, node: fx.Node, module: nn.Module) -> None:
        source = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
        alone = str(node.target) not in self.shared or not any(True for _ in module.parameters())
        if source is None or not alone:
            self._bar(node)
        elif isinstance(module, FoldedGhost):
            self._take(node, source, module.primary[0])
            self.stream_of[node].makers.append(node)
        elif is_carrier(module):
            self._tie(node, [source])
            self.stream_of[node].carriers.append(node)
        elif isinstance(module, nn.modules.conv._ConvNd) and is_plain(module):
            self._take(node, source, module)
            self.stream_of[node].makers.append(node)
            if module.groups != 1:
                self.stream_of[node].fixed = f"{node.target} is a grouped convolution"
        elif is_channelwise(node, module):
            self._tie(node, [source])
            self.stream_of[node].pooled |= is_pool(node, module)
        else:
            self._bar(node)

    def _tie(self, node: fx.Node, sources: Sequence[fx.Node]) -> None:
        """The value of a node has its order in common with these."""
        for source in sources:
            stream, other = self.stream_of[node], self.stream_of[source]
            if stream is not other:
                other.absorb(stream)
                for key, value in self.stream_of.items():
                    if value is stream:
                        self.stream_of[key] = other

    def _take(self, node: fx.Node, source: fx.Node, conv: nn.Module) -> None:
        """A convolution reads a value: weights of one group can be permuted to take it in any order."""
        if getattr(conv, "groups", 1) == 1 and is_plain(conv):
            self.stream_of[source].takers.append(node)
        else:
            self.stream_of[source].needs.append((source, node))

    def _bar(self, node: fx.Node) -> None:
        """A node takes its inputs in the original order only, and so is its value."""
        for source in node.all_input_nodes:
            self.stream_of[source].needs.append((source, node))
        self.stream_of[node].fixed = f"{name_of(node)} has channels of its own"

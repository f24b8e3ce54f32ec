"""Reads a graph from its first node to its last, and notes who makes, carries and reads the channels of each value."""

import operator
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import lcm

import torch
from torch import fx, nn

from ..layers.convolution import Convolution, is_transposed
from ..layers.layer_classes import is_kind, is_plain
from .operations import (
    called_module,
    is_carrier,
    is_concatenation,
    is_pair,
    is_product,
    is_size,
    joined_values,
    mean_dims,
    place_of,
)
from .span_shapes import flattened, kept_value, run_sizes, value_of_function
from .span_values import Track, Value
from .spans import Axis, ChannelLayout, Span, SpanUse

OUTPUT = "its maps are an output"


def find_spans(
    graph: fx.Graph,
    modules: Mapping[str, nn.Module],
    bound: Mapping[str, str],
    streams: bool = False,
    output: str = OUTPUT,
    around: str = "",
) -> list[Span]:
    """The spans of a graph, in the order in which their first makers are called.

    Args:
        graph: of a network, or of a part of one whose outputs others may use.
        modules: the modules that it calls, by their targets.
        bound: the targets of modules that have to stay as they are, and why: they are shared, read from outside, hooked.
        streams: whether maps that several layers add up, the outputs of residual blocks, may be made fewer.
        output: the reason of spans that the graph returns.
        around: the qualified name of the part that the graph is of, with which reasons begin the names of layers.
    """
    reader = _SpanReader(modules, bound, output, around)
    for node in graph.nodes:
        reader.read(node)
    return [track.span(streams) for track in reader.tracks()]


def span_layouts(
    graph: fx.Graph, modules: Mapping[str, nn.Module], bound: Collection[str]
) -> tuple[list[Span], dict[fx.Node, ChannelLayout]]:
    """The spans of a graph, streams among them, and which of them the channels of each node's value are.

    Values whose channels are not understood have no layout. The arguments are those of :func:`find_spans`, and ``bound`` are
    targets alone.
    """
    reader = _SpanReader(modules, dict.fromkeys(bound, "bound"), OUTPUT, "")
    for node in graph.nodes:
        reader.read(node)
    tracks = reader.tracks()
    index = {id(track): i for i, track in enumerate(tracks)}
    layouts = {}
    for node, value in reader.values.items():
        if value is not None and not any(track.root().cut for track in value.tracks):
            runs = tuple(index[id(track.root())] for track in value.tracks)
            layouts[node] = ChannelLayout(runs, value.axis, value.places, value.flat)
    return [track.span(streams=True) for track in tracks], layouts


class _SpanReader:
    """Reads the nodes of a graph in order."""

    def __init__(self, modules: Mapping[str, nn.Module], bound: Mapping[str, str], output: str, around: str):
        self.modules, self.bound, self.output, self.around = modules, bound, output, around
        self.values: dict[fx.Node, Value | None] = {}
        self.runs: dict[fx.Node, list[Value]] = {}  # of maps that are cut
        self.numbers: set[fx.Node] = set()  # sizes, what is computed from them, and parameters of a single number
        self.all: list[Track] = []

    def tracks(self) -> list[Track]:
        return list({id(track.root()): track.root() for track in self.all}.values())

    def read(self, node: fx.Node) -> None:
        """Note what a node does to the channels of its inputs."""
        self.values[node] = None
        if self._is_number(node):
            self.numbers.add(node)
        elif node.op != "placeholder":
            self.values[node] = self._read(node)

    def _read(self, node: fx.Node) -> Value | None:
        module = called_module(node, self.modules)
        if module is not None:
            return self._read_call(node, module)
        if node.op == "output":
            return self._bar(node, self.output)
        if is_concatenation(node):
            return self._join(node)
        if is_pair(node):
            return self._combine(node)
        inputs = node.all_input_nodes
        if node.target is operator.getitem and inputs[0] in self.runs:
            return self._run(self.runs[inputs[0]], node.args[1])
        source = self._source(node)
        value = value_of_function(node, source) if source is not None else None
        return value or self._cut(node, source)

    def _cut(self, node: fx.Node, source: Value | None) -> Value | None:
        """The spans of what a node reads are not free. Of the runs of channels that it cuts them into, where it does, only the
        number is known, so that the spans which they are joined to may still be free."""
        across = source is not None and (dims := mean_dims(node)) and all(map(source.excludes_channels, dims))
        does = "takes its maps of all images together" if across else "reads its maps, and may mix their channels"
        reason = f"{self._named(node)} {does}"
        sizes = run_sizes(node, source) if source is not None else None
        if source is not None and sizes is not None:
            self.runs[node] = [replace(source, tracks=(Track(size, cut=True, reason=reason),)) for size in sizes]
        return self._bar(node, reason)

    def _run(self, runs: list[Value], index: object) -> Value | None:
        return runs[index] if isinstance(index, int) and -len(runs) <= index < len(runs) else None

    def _named(self, node: fx.Node) -> str:
        """What a node calls, in words that a user can look up."""
        return place_of(node, self.around)

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source not in self.numbers]

    def _source(self, node: fx.Node) -> Value | None:
        """What is known of the one value that a node reads."""
        inputs = self._inputs(node)
        return self.values[inputs[0]] if len(inputs) == 1 else None

    def _is_number(self, node: fx.Node) -> bool:
        """Whether a node's value is a number, or a list of them, that does not depend on how many channels a span has."""
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            tensor = getattr(self.modules.get(owner), name, None)
            return isinstance(tensor, torch.Tensor) and tensor.numel() == 1 and tensor.dim() <= 1
        if is_size(node):
            source = self.values.get(node.all_input_nodes[0])
            if source is not None and _asks_for_channels(node, source):
                self._bar(node, "the network asks how many channels its maps have")
            return True
        inputs = node.all_input_nodes
        return node.op == "call_function" and node.target in _ARITHMETIC and bool(inputs) and self.numbers.issuperset(inputs)

    def _bar(self, node: fx.Node, reason: str) -> Value | None:
        """The spans of the inputs are not free; of the channels of the node's own value nothing is known."""
        for source in node.all_input_nodes:
            value = self.values.get(source)
            for track in value.tracks if value else ():
                track.bar(reason)
        return None

    def _make(self, target: str, channels: int, axis: Axis, places: int | None, groups: int = 1, reason: str = "") -> Value:
        track = Track(channels, [target], groups=groups, reason=reason)
        self.all.append(track)
        return Value((track,), axis, places)

    def _read_call(self, node: fx.Node, module: nn.Module) -> Value | None:
        target, inputs = str(node.target), self._inputs(node)
        if target in self.bound:
            return self._stay(node, module, f"{self._named(node)} stays as it is ({self.bound[target]})")
        if any(True for _ in module.parameters()) and len(inputs) != 1:
            return self._stay(node, module, f"{self._named(node)} takes {len(inputs)} inputs, not one")
        source = self.values[inputs[0]] if len(inputs) == 1 else None
        if isinstance(module, nn.Linear) and type(module) is nn.Linear:
            return self._read_linear(node, module, source)
        if isinstance(module, Convolution) and (is_kind(module, "conv") or is_transposed(module)):
            return self._read_conv(node, module, source)
        if is_carrier(module):
            return self._carry(node, target, source)
        value = None
        if source is not None:
            flatten = isinstance(module, nn.Flatten)
            value = flattened(source, module.start_dim, module.end_dim) if flatten else kept_value(node, module, source)
        return value or self._stay(
            node, module, f"{self._named(node)}, a {type(module).__name__}, reads its maps, and may mix their channels"
        )

    def _stay(self, node: fx.Node, module: nn.Module, reason: str) -> Value | None:
        """A layer that has to stay as it is: neither what it reads nor what it makes is free."""
        self._bar(node, reason)
        if isinstance(module, nn.Linear):
            return self._make(str(node.target), module.out_features, "last", None, reason=reason)
        if isinstance(module, Convolution):
            return self._make(str(node.target), module.out_channels, "second", len(module.kernel_size), reason=reason)
        return None

    def _read_linear(self, node: fx.Node, layer: nn.Linear, source: Value | None) -> Value:
        axis: Axis = "last"
        if source is not None:
            width = layer.in_features // source.channels if source.flat else 1
            if source.axis == "second" or source.channels * width != layer.in_features:
                self._bar(node, f"{self._named(node)} reads places as channels")
            else:
                axis = source.axis
                for offset, track in source.offsets():
                    track.readers.append(SpanUse(str(node.target), offset * width, width))
        return self._make(str(node.target), layer.out_features, axis, source.places if source and axis == "last" else None)

    def _read_conv(self, node: fx.Node, conv: Convolution, source: Value | None) -> Value:
        target, places = str(node.target), len(conv.kernel_size)
        depthwise = 1 < conv.groups == conv.in_channels
        if source is not None and (source.axis != "second" or source.channels != conv.in_channels):
            self._bar(node, f"{self._named(node)} reads other channels than its input has")
            source = None
        if source is not None and depthwise and conv.out_channels == conv.in_channels and is_plain(conv):
            carried = self._carry(node, target, source)
            assert carried is not None
            return carried
        for offset, track in source.offsets() if source is not None else ():
            reason = self._unreadable(self._named(node), conv, depthwise or (source is not None and len(source.tracks) > 1))
            if reason:
                track.bar(reason)
            else:
                track.groups = lcm(track.groups, conv.groups)
                track.readers.append(SpanUse(target, offset))
        return self._make(target, conv.out_channels, "second", places, conv.groups)

    def _unreadable(self, name: str, conv: Convolution, apart: bool) -> str:
        """Why a convolution can't lose input channels of a span; ``apart``: its groups are not equal runs of one span."""
        if not is_plain(conv) and not is_transposed(conv):
            return f"{name}, a {type(conv).__name__}, is more than its weight"
        return f"{name} is a grouped convolution of several spans, or a depthwise one" if conv.groups > 1 and apart else ""

    def _carry(self, node: fx.Node, target: str, source: Value | None) -> Value | None:
        if source is None or source.axis == "last" or source.flat:
            return self._bar(node, f"{self._named(node)} reads its maps, and may mix their channels")
        for offset, track in source.offsets():
            track.carriers.append(SpanUse(target, offset))
        return source

    def _join(self, node: fx.Node) -> Value | None:
        values = [self.values.get(source) for source in joined_values(node)]
        known = [value for value in values if value is not None]
        axes = {value.axis for value in known}
        if len(known) < len(values) or len(axes) > 1 or "last" in axes or any(value.flat for value in known):
            return self._bar(node, f"{self._named(node)} joins it to values that are not understood")
        places = {value.places for value in known}
        return Value(
            tuple(track for value in known for track in value.tracks), known[0].axis, *(places if len(places) == 1 else ())
        )

    def _combine(self, node: fx.Node) -> Value | None:
        inputs = self._inputs(node)
        values = [value for source in inputs if (value := self.values[source]) is not None]
        if len(inputs) == 1:  # with a number, or with itself
            return values[0] if values else None
        if len(values) < 2 or len(inputs) > 2:
            parameters = [str(source.target) for source in inputs if source.op == "get_attr"]
            others = f"the parameter {parameters[0]}" if parameters else "values that are not understood"
            self._bar(node, f"{self._named(node)} combines its maps with {others}")
            return values[0] if len(values) == 1 and len(inputs) == 2 else None
        first, second = values
        if first.axis != second.axis or first.flat or second.flat or not _agree(first.places, second.places):
            return self._bar(node, f"{self._named(node)} combines its maps with others, whose channels stand elsewhere")
        if 1 in (first.channels, second.channels) and first.channels != second.channels:
            return self._spread(first, second, self._named(node))
        if [track.channels for track in first.tracks] != [track.channels for track in second.tracks]:
            return self._bar(node, f"{self._named(node)} combines its maps with other channels")
        for one, other in zip(first.tracks, second.tracks, strict=True):
            apart = one.root() is not other.root()
            one.unite(other)
            one.root().summed |= apart and not is_product(node)
        return first if first.places is not None else second

    def _spread(self, first: Value, second: Value, name: str) -> Value:
        """Maps of many channels combined with a single map, such as a gate for each place: each of the many by itself."""
        single, many = (first, second) if first.channels == 1 else (second, first)
        single.tracks[0].bar(f"{name} combines its one map with many others")
        return many


# of sizes and numbers
_ARITHMETIC = {
    *(operator.getitem, operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv),
    *(operator.neg, operator.mod),
}


def _agree(one: int | None, other: int | None) -> bool:
    return one is None or other is None or one == other


def _asks_for_channels(node: fx.Node, source: Value) -> bool:
    """Whether a node that asks for sizes of a value asks for its number of channels, and anyone uses the answer."""
    if node.op == "call_function":
        if node.args[1] != "shape":
            return False  # its type, device or number of dimensions
    elif node.target == "dim":
        return False
    elif node.target == "numel":
        return bool(node.users)
    elif len(node.args) > 1 or node.kwargs:
        index = node.args[1] if len(node.args) > 1 else next(iter(node.kwargs.values()))
        return bool(node.users) and not source.excludes_channels(index)
    for user in node.users:
        picked = user.target is operator.getitem and user.args[0] is node
        if not picked or (user.users and not source.excludes_channels(user.args[1])):
            return True
    return False

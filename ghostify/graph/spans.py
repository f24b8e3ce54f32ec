"""Spans: the maps between layers, who makes their channels, who carries them, who reads them.

A span is a set of channels that can be made fewer together: the layers that make them give fewer, the layers that carry them
(norms, depthwise convolutions) get narrower, and the layers that read them lose columns. Values that are combined channel by
channel share their spans; a concatenation keeps the spans of what it joins, one after the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import lcm
from typing import Literal

from torch import fx, nn

from ..layers.convolution import Convolution
from ..layers.layer_classes import is_kind, is_plain
from .operations import (
    called_module,
    is_carrier,
    is_channelwise,
    is_concatenation,
    is_pair,
    is_pool,
    is_product,
    is_size,
    joined_values,
    knows_places,
    mean_dims,
    mean_keeps_dims,
    name_of,
    operation_of,
)

# where the channels of a value stand: second of (N, C, ...), last of (N, ..., C), or of (N, C), where both are one
Axis = Literal["second", "last", "only"]


@dataclass(frozen=True)
class SpanUse:
    """A layer, or a parameter, whose channels begin with those of a span at some place.

    Attributes:
        target: of the layer or of the parameter, as the graph names it.
        offset: the first input channel of the layer that belongs to the span.
        width: input features for each channel: 1, or the places of a map that was flattened.
    """

    target: str
    offset: int = 0
    width: int = 1


@dataclass(frozen=True)
class Span:
    """Channels that are made, carried and read together.

    Attributes:
        channels: how many.
        makers: targets of the layers that make them, each all of its output channels.
        carriers: layers and parameters with values for each channel.
        readers: convolutions and fully connected layers that mix the channels.
        groups: equal runs of channels of which equally many have to stay, as grouped convolutions need them.
        reason: why the channels can't be made fewer; empty for a free span.
    """

    channels: int
    makers: tuple[str, ...]
    carriers: tuple[SpanUse, ...]
    readers: tuple[SpanUse, ...]
    groups: int = 1
    reason: str = ""


def find_spans(graph: fx.Graph, modules: Mapping[str, nn.Module], shared: set[str], streams: bool = False) -> list[Span]:
    """The spans of a graph, in the order in which their first makers are called.

    Args:
        graph: of a network, or of a part of one whose outputs others may use.
        modules: the modules that it calls, by their targets.
        shared: targets of layers that are called more than once, have more names or derived weights, or are read from outside;
            and of modules of any kind that have hooks.
        streams: whether maps that several layers add up, the outputs of residual blocks, may be made fewer.
    """
    reader = _SpanReader(modules, shared)
    for node in graph.nodes:
        reader.read(node)
    return [track.span(streams) for track in reader.tracks() if track.makers]


@dataclass
class _Track:
    """A span while the graph is read."""

    channels: int
    makers: list[str] = field(default_factory=list)
    carriers: list[SpanUse] = field(default_factory=list)
    readers: list[SpanUse] = field(default_factory=list)
    groups: int = 1
    summed: bool = False
    reason: str = ""
    parent: "_Track | None" = None

    def root(self) -> "_Track":
        track = self
        while track.parent is not None:
            track = track.parent
        return track

    def unite(self, other: "_Track") -> None:
        mine, theirs = self.root(), other.root()
        if mine is theirs:
            return
        mine.makers += theirs.makers
        mine.carriers += theirs.carriers
        mine.readers += theirs.readers
        mine.groups = lcm(mine.groups, theirs.groups)
        mine.summed |= theirs.summed
        mine.reason = mine.reason or theirs.reason
        theirs.parent = mine

    def bar(self, reason: str) -> None:
        root = self.root()
        root.reason = root.reason or reason

    def span(self, streams: bool) -> Span:
        reason = self.reason
        if self.summed and len(self.makers) > 1 and not streams:
            reason = reason or "its maps are added to those of other layers, as the outputs of residual blocks are"
        if not self.readers:
            reason = reason or "no layer reads its maps"
        if self.channels % self.groups:
            reason = reason or f"its {self.channels} channels do not fall into {self.groups} equal groups"
        return Span(self.channels, tuple(self.makers), tuple(self.carriers), tuple(self.readers), self.groups, reason)


@dataclass(frozen=True)
class _Value:
    """The channels of a node's value: runs of spans, one after the other."""

    tracks: tuple[_Track, ...]
    axis: Axis = "second"
    places: int | None = None  # dimensions of places, where they are known
    flat: bool = False  # places were flattened into the channels

    @property
    def channels(self) -> int:
        return sum(track.channels for track in self.tracks)

    def offsets(self) -> Iterator[tuple[int, _Track]]:
        offset = 0
        for track in self.tracks:
            yield offset, track.root()
            offset += track.channels


class _SpanReader:
    """Reads the nodes of a graph in order."""

    def __init__(self, modules: Mapping[str, nn.Module], shared: set[str]):
        self.modules, self.shared = modules, shared
        self.values: dict[fx.Node, _Value | None] = {}
        self.all: list[_Track] = []

    def tracks(self) -> list[_Track]:
        return list({id(track.root()): track.root() for track in self.all}.values())

    def read(self, node: fx.Node) -> None:
        """Note what a node does to the channels of its inputs."""
        module = called_module(node, self.modules)
        if module is not None:
            value = self._read_call(node, module)
        elif node.op == "placeholder" or is_size(node):
            value = None
        elif node.op == "output":
            value = self._bar(node, "its maps are an output")
        elif is_concatenation(node):
            value = self._join(node)
        elif is_pair(node):
            value = self._combine(node)
        else:
            value = self._reshaped(node) or self._kept(node, None) or self._bar(node, f"{name_of(node)} reads its maps")
        self.values[node] = value

    def _read_call(self, node: fx.Node, module: nn.Module) -> _Value | None:
        target = str(node.target)
        source = self._source(node)
        several_inputs = any(True for _ in module.parameters()) and len(node.all_input_nodes) != 1
        if target in self.shared or several_inputs:
            return self._bar(node, f"{target} is called more than once, is hooked, or takes several inputs")
        if isinstance(module, nn.Flatten):
            return self._flattened(node, module.start_dim, module.end_dim)
        if isinstance(module, nn.Linear) and type(module) is nn.Linear:
            return self._read_linear(node, module, source)
        if is_kind(module, "conv") and isinstance(module, Convolution):
            return self._read_conv(node, module, source)
        if is_carrier(module):
            return self._carry(node, target, source)
        return self._kept(node, module) or self._bar(node, f"{target} reads its maps")

    def _source(self, node: fx.Node) -> _Value | None:
        return self.values.get(node.all_input_nodes[0]) if len(node.all_input_nodes) == 1 else None

    def _make(self, target: str, channels: int, axis: Axis, places: int | None, groups: int = 1) -> _Value:
        track = _Track(channels, [target], groups=groups)
        self.all.append(track)
        return _Value((track,), axis, places)

    def _bar(self, node: fx.Node, reason: str) -> _Value | None:
        """The spans of the inputs are not free; of the channels of the node's own value nothing is known."""
        for source in node.all_input_nodes:
            value = self.values.get(source)
            for track in value.tracks if value else ():
                track.bar(reason)
        return None

    def _read_linear(self, node: fx.Node, layer: nn.Linear, source: _Value | None) -> _Value:
        axis: Axis = "last"
        if source is not None:
            width = layer.in_features // source.channels if source.flat else 1
            if source.axis == "second" or source.channels * width != layer.in_features:
                self._bar(node, f"{node.target} reads places as channels")
            else:
                axis = source.axis
                for offset, track in source.offsets():
                    track.readers.append(SpanUse(str(node.target), offset * width, width))
        return self._make(str(node.target), layer.out_features, axis, source.places if source and axis == "last" else None)

    def _read_conv(self, node: fx.Node, conv: Convolution, source: _Value | None) -> _Value:
        target, places = str(node.target), len(conv.kernel_size)
        depthwise = 1 < conv.groups == conv.in_channels
        if source is not None and (source.axis != "second" or source.channels != conv.in_channels):
            self._bar(node, f"{target} reads other channels than its input has")
            source = None
        if source is not None and depthwise and conv.out_channels == conv.in_channels and is_plain(conv):
            carried = self._carry(node, target, source)
            assert carried is not None
            return carried
        for offset, track in source.offsets() if source is not None else ():
            reason = self._unreadable(target, conv, depthwise or (source is not None and len(source.tracks) > 1))
            if reason:
                track.bar(reason)
            else:
                track.groups = lcm(track.groups, conv.groups)
                track.readers.append(SpanUse(target, offset))
        return self._make(target, conv.out_channels, "second", places, conv.groups)

    def _unreadable(self, target: str, conv: Convolution, apart: bool) -> str:
        """Why a convolution can't lose input channels of a span; ``apart``: its groups are not equal runs of one span."""
        if not is_plain(conv):
            return f"{target}, a {type(conv).__name__}, is more than its weight"
        return f"{target} is a grouped convolution of several spans, or a depthwise one" if conv.groups > 1 and apart else ""

    def _carry(self, node: fx.Node, target: str, source: _Value | None) -> _Value | None:
        if source is None or source.axis == "last" or source.flat:
            return self._bar(node, f"{target} reads its maps")
        for offset, track in source.offsets():
            track.carriers.append(SpanUse(target, offset))
        return source

    def _kept(self, node: fx.Node, module: nn.Module | None) -> _Value | None:
        """The value of an operation that takes each channel by itself, and all alike."""
        source = self._source(node)
        if source is None or not is_channelwise(node, module):
            return None
        if not knows_places(node, module):
            return source
        return source if source.axis == "second" and self._only_places(node, module, source.places) else None

    def _only_places(self, node: fx.Node, module: nn.Module | None, places: int | None) -> bool:
        """Whether the dimensions that a node names are places of maps."""
        if operation_of(node, module).pads:
            widths = node.args[1]
            return places is not None and isinstance(widths, (list, tuple)) and len(widths) <= 2 * places
        if module is None and is_pool(node, None) and (dims := mean_dims(node)) is not None:
            return places is not None and _are_places(dims, places)
        return True

    def _reshaped(self, node: fx.Node) -> _Value | None:
        """The value of an operation that moves the channels to another axis, or takes places away."""
        source = self.values.get(node.all_input_nodes[0]) if node.all_input_nodes else None
        if source is None or node.op not in ("call_function", "call_method"):
            return None
        name = str(getattr(node.target, "__name__", node.target))
        arguments = list(node.args[1:])
        if name == "flatten":
            start = arguments[0] if arguments else node.kwargs.get("start_dim", 0)
            end = arguments[1] if len(arguments) > 1 else node.kwargs.get("end_dim", -1)
            return self._flattened(node, start, end)
        if name in ("view", "reshape") and len(arguments) == 2 and arguments[1] == -1 and isinstance(arguments[0], fx.Node):
            return self._flattened(node, 1, -1)
        if source.places is None:
            return None
        dims = mean_dims(node)
        if dims is not None and mean_keeps_dims(node) is False and source.axis == "second":
            return _Value(source.tracks, "only") if _are_places(dims, source.places, every=True) else None
        if name == "permute":
            listed = len(arguments) == 1 and isinstance(arguments[0], (list, tuple))
            return self._permuted(source, tuple(arguments[0]) if listed else tuple(arguments))  # type: ignore[arg-type]
        return None

    def _permuted(self, source: _Value, order: tuple[object, ...]) -> _Value | None:
        assert source.places is not None
        dims = source.places + 2
        if source.axis == "second" and order == (0, *range(2, dims), 1):
            return _Value(source.tracks, "last", source.places)
        if source.axis == "last" and order == (0, dims - 1, *range(1, dims - 1)):
            return _Value(source.tracks, "second", source.places)
        return None

    def _flattened(self, node: fx.Node, start: object, end: object) -> _Value | None:
        source = self.values.get(node.all_input_nodes[0])
        if source is None or (source.axis == "only" and not source.flat):
            return source
        if start == 1 and end == -1 and source.axis == "second":
            return _Value(source.tracks, "only", flat=True)
        return self._bar(node, f"{name_of(node)} mixes its channels with places")

    def _join(self, node: fx.Node) -> _Value | None:
        values = [self.values.get(source) for source in joined_values(node)]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or any(value.axis == "last" or value.flat for value in known):
            return self._bar(node, f"{name_of(node)} joins it to values that are not understood")
        return _Value(tuple(track for value in known for track in value.tracks), known[0].axis)

    def _combine(self, node: fx.Node) -> _Value | None:
        values = [self.values.get(source) for source in node.all_input_nodes]
        if len(values) == 1:  # with a number, or with itself
            return values[0]
        first, second = values[0], values[1]
        if first is None or second is None or len(values) > 2:
            return self._bar(node, f"{name_of(node)} combines its maps with values that are not understood")
        sizes = [[track.channels for track in value.tracks] for value in (first, second)]
        if sizes[0] != sizes[1] or first.axis != second.axis or first.flat or second.flat:
            return self._bar(node, f"{name_of(node)} combines its maps with other channels")
        for one, other in zip(first.tracks, second.tracks, strict=True):
            apart = one.root() is not other.root()
            one.unite(other)
            one.root().summed |= apart and not is_product(node)
        return first


def _are_places(dims: set[object], places: int, every: bool = False) -> bool:
    """Whether dimensions of maps (N, C, ...) are places, or all of their places."""
    counted = {dim + places + 2 if isinstance(dim, int) and dim < 0 else dim for dim in dims}
    all_places = set(range(2, places + 2))
    return counted == all_places if every else counted <= all_places

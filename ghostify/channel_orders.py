"""In which order the channels of each value in a graph may stand, so that Ghost modules need not restore the original one.

Values that are added, or that an activation or a pool makes of each other, have one order in common: they are a stream. The
order of a stream is free where each layer that makes it can give its channels in another order and each layer that reads it can
take them so: convolutions and fully connected layers do, by permuting their weights once.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .folded import FoldedGhost, is_plain
from .patterns import is_kind
from .sites import is_activation_function

_POOLS: tuple[type, ...] = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip
_KEEP: tuple[type, ...] = (*_POOLS, nn.Upsample, nn.Identity, nn.modules.dropout._DropoutNd)
_KEEP_FUNCTIONS = {
    F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, F.dropout, torch.clone,
    F.max_pool1d, F.avg_pool1d, F.max_pool3d, F.avg_pool3d, torch.clamp, torch.exp, torch.nn.functional.dropout2d,
}  # fmt: skip
_KEEP_METHODS = {"contiguous", "clone", "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "clamp", "clamp_", "float", "half"}
PAIRS = {
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv,
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum,
    "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_",
}  # fmt: skip
_SHAPES = {"size", "dim", "numel"}


@dataclass
class Stream:
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

    def join(self, other: "Stream") -> None:
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
        self.of: dict[fx.Node, Stream] = {}
        self.nodes = list(graph.nodes)
        for node in self.nodes:
            self.of[node] = Stream()
            self._read(node)
        self._settle()

    @property
    def streams(self) -> list[Stream]:
        return list({id(stream): stream for stream in self.of.values()}.values())

    def _read(self, node: fx.Node) -> None:
        """What a node does to the order of its inputs."""
        if node.op == "call_module":
            self._module(node, self.modules[str(node.target)])
        elif is_channelwise(node, self.modules):
            self._tie(node, node.all_input_nodes[:1] if node.op == "call_method" else node.all_input_nodes)
            self.of[node].pooled |= "pool" in getattr(node.target, "__name__", "") or keeps_places(node)
        elif node.op in ("call_function", "call_method") and node.target in PAIRS:
            self._tie(node, node.all_input_nodes)
        elif node.target in (torch.cat, torch.concat) and along_channels(node):
            self.of[node].cats.append(node)
        elif (node.op == "call_method" and node.target in _SHAPES) or (node.target is getattr and node.args[1] == "shape"):
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
        elif is_channelwise(node, self.modules):
            self._tie(node, [source])
            self.of[node].pooled |= isinstance(module, _POOLS)
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
                    parts = [self.of[source] for source in _parts(cat)]
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

    def _choose(self, stream: Stream) -> None:
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

    def _count(self, stream: Stream) -> int | None:
        """Channels of a stream, where known."""
        if stream.channels is None and stream.cats:
            counts = [self._count(self.of[source]) for source in _parts(stream.cats[0])]
            stream.channels = None if None in counts else sum(map(int, counts))  # type: ignore[arg-type]
        return stream.channels

    def _joined(self, cat: fx.Node) -> Tensor | None:
        """The order of what a concatenation joins."""
        offset, orders, moved = 0, [], False
        for source in _parts(cat):
            part = self.of[source]
            if not part.settled and not part.fixed:
                self._choose(part)
            channels = self._count(part)
            assert channels is not None
            moved = moved or part.order is not None
            orders.append(offset + (torch.arange(channels) if part.order is None else part.order))
            offset += channels
        return torch.cat(orders) if moved else None


def is_carrier(module: Any) -> bool:
    """Whether it takes each channel by itself and has numbers for each."""
    if is_kind(module, "norm"):
        return not _has_parameters(getattr(module, "act", None))
    if isinstance(module, nn.modules.conv._ConvNd):
        return is_plain(module) and 1 < module.groups == module.in_channels == module.out_channels
    return is_kind(module, "activation") and _has_parameters(module)


def is_channelwise(node: fx.Node, modules: Mapping[str, Any]) -> bool:
    """Whether it takes each channel by itself, and all alike."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        plain = isinstance(module, _KEEP) and not getattr(module, "return_indices", False)
        return plain or (is_kind(module, "activation") and not _has_parameters(module))
    if node.op == "call_method" and node.target in _KEEP_METHODS:
        return True
    if node.op == "call_function" and (node.target in _KEEP_FUNCTIONS or is_activation_function(node)):
        return node.kwargs.get("return_indices") is not True
    if node.target is F.pad:  # of places
        return len(node.args) > 1 and isinstance(node.args[1], (list, tuple)) and len(node.args[1]) <= 4
    return keeps_places(node)


def along_channels(cat: fx.Node) -> bool:
    dim = cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)
    joined = cat.args[0] if isinstance(cat.args[0], (list, tuple)) else [None]
    return bool(dim == 1) and all(isinstance(one, fx.Node) for one in joined)


def _parts(cat: fx.Node) -> list[fx.Node]:
    """What a concatenation joins."""
    joined: Any = cat.args[0]
    return list(joined)


def keeps_places(node: fx.Node) -> bool:
    """Whether it is a mean over places that leaves 1x1 maps."""
    if node.target not in (torch.mean, "mean"):
        return False
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim")
    return keep is True and isinstance(dims, (tuple, list)) and {*dims} <= {2, 3, 4, -1, -2}


def _has_parameters(module: Any) -> bool:
    """Numbers for each channel."""
    return isinstance(module, nn.Module) and any(p.numel() > 1 for p in module.parameters())


def _told(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else f"{getattr(node.target, '__name__', node.target)}"

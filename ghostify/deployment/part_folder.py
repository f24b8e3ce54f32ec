"""Folds one part of a network that has a graph: into a graph of its own, or in place of its modules."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, fx, nn

from ..common.copying import copy_layer
from ..graph.operations import called_module, is_carrier, is_identity_in_evaluation, name_of
from ..graph.running import attribute_of
from ..graph.tracing import Part
from ..graph.usage import has_hooks, is_patched
from ..layers.convolution import as_convolution, as_weighted
from ..layers.ghost_module import GhostModule, take_channels
from ..layers.layer_classes import is_kind, narrow
from .channel_orders import ChannelOrders
from .channel_streams import ChannelStream, ChannelStreams, channel_streams
from .fold_report import FoldedPart
from .folded_ghost import FoldedGhost, fold_ghost, fold_norm, permute_inputs
from .parted_maps import part_maps
from .student_outputs import DIFFERS


@dataclass(frozen=True)
class PartLayers:
    """A part of a network with its modules.

    Attributes:
        part: its graph, which is not changed.
        modules: the modules of the part by their targets; they are not changed.
        shared: targets that are called more than once, or read from outside.
        settled: targets of modules that are folded already.
    """

    part: Part
    modules: Mapping[str, nn.Module]
    shared: set[str]
    settled: set[str] = field(default_factory=set)

    @property
    def hooked(self) -> set[str]:
        """Targets of modules with hooks, or with a forward method of their own in place of their class's."""
        return {target for target, module in self.modules.items() if has_hooks(module) or is_patched(module)}


def fold_as_graph(root: nn.Module, layers: PartLayers, split: bool) -> tuple[fx.GraphModule, list[FoldedPart]]:
    """The folded form of a part as a graph of its own, and what became of its layers.

    Args:
        root: the module that the part traces.
        layers: the part.
        split: whether convolutions of maps that are made apart become sums of two.
    """
    folder = _PartFolder(layers)
    folder.drop_identities()
    folder.fold_norms()
    folder.fold_orders()
    part_maps(folder.graph, folder.modules, layers.shared, layers.hooked, split)
    return _graph_module(root, folder), folder.folded


def fold_modules(
    layers: PartLayers, kept: Collection[str] = (), orders: bool = True
) -> tuple[dict[nn.Module, nn.Module], list[FoldedPart]]:
    """What takes the places of the modules of a part, and what became of them. No call comes or goes.

    Args:
        layers: the part.
        kept: targets of norms that stay.
        orders: whether layers may hand on their channels in other orders.
    """
    folder = _PartFolder(layers, in_place=True)
    folder.fold_norms(kept)
    if orders:
        folder.fold_orders()
    else:
        folder.keep_orders()
    changed = {module: folder.modules[target] for target, module in layers.modules.items()}
    return {module: folded for module, folded in changed.items() if module is not folded}, folder.folded


def inner_norms(name: str, ghost: GhostModule, folded: FoldedGhost) -> Iterator[FoldedPart]:
    """What became of the norms inside a Ghost module."""
    chains = (
        ("primary_conv", ghost.primary_conv, folded.primary),
        ("cheap_operation", ghost.cheap_operation, folded.ghosts.cheap),
    )
    for part, chain, folded_chain in chains:
        kept = {id(layer) for layer in folded_chain}
        for position, layer in enumerate(chain):
            if is_kind(layer, "norm"):
                reason = f"{type(chain[0]).__name__} or {type(layer).__name__} is not a fixed scale and shift"
                yield FoldedPart(f"{name}.{part}.{position}", "norm", reason if id(layer) in kept else None)


def _graph_module(root: nn.Module, folder: "_PartFolder") -> fx.GraphModule:
    """The folder's graph as a module that also has the plain attributes of ``root``."""
    targets = {str(node.target) for node in folder.graph.nodes if node.op in ("call_module", "get_attr")}
    attributes: dict[str, object] = {}
    for target in targets:
        if target in folder.modules:
            attributes[target] = folder.modules[target]
        elif target in folder.orders:
            attributes[target] = folder.orders[target].to(next(root.parameters()).device)
        else:
            attributes[target] = attribute_of(root, folder.part.constants, target)
    module = fx.GraphModule(attributes, folder.graph, type(root).__name__)
    for name, value in vars(root).items():
        if name not in vars(module) and not name.startswith("_") and not isinstance(value, Tensor):
            setattr(module, name, value)  # what the code around this part may ask of it
    return module


HOOKED = "it, or a layer beside it, has hooks or a forward method of its own"


class _PartFolder:
    """Works on a copy of a part's graph; ``folded`` notes each layer, and ``orders`` holds the indices that the graph reads.

    Args:
        layers: a part of a network. In ``modules``, folded ones take the places of others.
        in_place: whether the graph must keep its nodes, since modules alone can be changed.
    """

    def __init__(self, layers: PartLayers, in_place: bool = False):
        self.part, self.shared, self.hooked, self.settled = layers.part, layers.shared, layers.hooked, layers.settled
        self.modules, self.in_place = dict(layers.modules), in_place
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(self.part.graph, {}))
        self.orders: dict[str, Tensor] = {}
        self.folded: list[FoldedPart] = []
        for target in dict.fromkeys(str(node.target) for node, _ in self._calls()):
            self._fold_ghost(target)

    def _fold_ghost(self, target: str) -> None:
        ghost = self.modules[target]
        if not isinstance(ghost, GhostModule) or target in self.settled:
            return
        if any(has_hooks(module) or is_patched(module) for module in ghost.modules()):
            self._note(target, "channel order", HOOKED)
            return
        self.modules[target] = folded = fold_ghost(ghost)
        self.folded += inner_norms(self.part.qualified(target), ghost, folded)

    def drop_identities(self) -> None:
        """Take out what gives its input as it is in evaluation mode."""
        for node in list(self.graph.nodes):
            hooked = node.op == "call_module" and node.target in self.hooked
            if not hooked and is_identity_in_evaluation(node, called_module(node, self.modules)):
                self._replace(node, node.all_input_nodes[0])
                if node.op == "call_module":
                    self._note(str(node.target), "identity")

    def fold_norms(self, kept: Collection[str] = ()) -> None:
        """Put norms into the layers before them, but for those that are kept."""
        for node, norm in self._calls():
            if not is_kind(norm, "norm") or not node.all_input_nodes or node.target in self.settled:
                continue
            before = node.all_input_nodes[0]
            layer = called_module(before, self.modules)
            reason = None
            if node.target in kept:
                reason = DIFFERS
            elif {str(node.target), str(before.target)} & self.hooked:
                reason = HOOKED
            elif layer is None or not (is_kind(layer, "conv") or isinstance(layer, nn.Linear)):
                reason = f"follows {'a ' + type(layer).__name__ if layer is not None else before.name}, not a convolution"
            elif len(before.users) > 1:
                reason = f"{before.target} has other users, too"
            elif {str(node.target), str(before.target)} & self.shared:
                reason = "is called more than once, as is the convolution, or one of the two"
            elif (folded := fold_norm(as_weighted(layer), norm)) is None:
                reason = f"{type(layer).__name__} or {type(norm).__name__} is not a fixed scale and shift"
            else:
                self.modules[str(before.target)], act = folded
                if act is not None:
                    self.modules[str(node.target)] = act
                elif self.in_place:
                    self.modules[str(node.target)] = nn.Identity()
                else:
                    self._replace(node, before)
            self._note(str(node.target), "norm", reason)

    def fold_orders(self) -> None:
        """Leave channels in the order in which Ghost modules compute them, as far as what follows can take them so."""
        streams = channel_streams(self.graph, self.modules, self.shared, self.hooked | self.settled)
        if self.in_place:
            self._fix_streams(streams)
        orders = ChannelOrders(streams, self.modules)
        needs = {reader for _, reader in streams.needs}
        ghosts: dict[str, fx.Node] = {}  # and one call of each
        for node, module in self._calls():
            taken = None if node in needs or not node.all_input_nodes else orders.of(node.all_input_nodes[0])
            self._permute(node, orders.of(node), taken)
            if isinstance(module, FoldedGhost):
                ghosts[str(node.target)] = node
        for target, node in ghosts.items():
            self._note_order(target, cast(FoldedGhost, self.modules[target]), orders.reason_for(node))
        restored: dict[fx.Node, fx.Node] = {}
        for value, reader in streams.needs:
            if (order := orders.of(value)) is not None:
                if value not in restored:
                    restored[value] = self._restore(value, torch.argsort(order), streams.dims[value])
                reader.replace_input_with(value, restored[value])

    def _fix_streams(self, streams: ChannelStreams) -> None:
        """Fix the orders that a node would have to restore, and those of maps that leave the module which makes them: whoever
        calls that module by itself expects the original order."""
        for value, reader in streams.needs:
            for stream in streams.runs[value]:
                stream.fix(f"{name_of(reader)} needs the original order")
        parents: dict[ChannelStream, set[str]] = defaultdict(set)
        for node, _ in self._calls():
            for value in (node, *node.all_input_nodes):
                for stream in streams.runs.get(value, ()):
                    parents[stream].add(str(node.target).rpartition(".")[0])
        for stream, around in parents.items():
            if len(around) > 1:
                stream.fix("its maps leave the module that makes them")

    def _permute(self, node: fx.Node, given: Tensor | None, taken: Tensor | None) -> None:
        """Let the layer that a node calls give and take its channels in another order; None for the original one."""
        target = str(node.target)
        module = self.modules[target]
        if isinstance(module, FoldedGhost):
            if given is not None:
                module.set_order(given)
            if taken is not None:
                permute_inputs(as_convolution(module.primary[0]), taken)
        elif is_carrier(module) or is_kind(module, "conv"):
            if given is not None:
                module = self.modules[target] = narrow(module, given)
            if taken is not None and not is_carrier(module):
                module = self.modules[target] = copy_layer(module)
                permute_inputs(as_convolution(module), taken)

    def keep_orders(self) -> None:
        """Let each Ghost module restore the original order itself."""
        for node, module in self._calls():
            if isinstance(module, FoldedGhost) and module.order is not None:
                self._note(str(node.target), "channel order", DIFFERS)

    def _note_order(self, target: str, ghost: FoldedGhost, reason: str) -> None:
        """Note whether a Ghost module still restores the original order."""
        if ghost.order is not None:
            self._note(target, "channel order", reason or "other layers that make the same sum have another order")
        elif not torch.equal(ghost.original_channels, torch.arange(ghost.out_channels)):
            self._note(target, "channel order")

    def _restore(self, value: fx.Node, back: Tensor, dim: int) -> fx.Node:
        """A node that gives the channels of ``value`` in the original order."""
        name = f"order_of_{value.name}"
        self.orders[name] = back
        with self.graph.inserting_after(value):
            index = self.graph.get_attr(name)
        with self.graph.inserting_after(index):
            restored = self.graph.call_function(take_channels, (value, index, dim))
        restored.meta["is_wrapped"] = True  # as a trace marks it: unpickling traces the code again
        return restored

    def _calls(self) -> Iterator[tuple[fx.Node, nn.Module]]:
        """Calls of modules; nodes may be taken out on the way."""
        for node in list(self.graph.nodes):
            module = called_module(node, self.modules)
            if module is not None:
                yield node, module

    def _replace(self, node: fx.Node, other: fx.Node) -> None:
        """Let all that reads a node read another one."""
        node.replace_all_uses_with(other)
        self.graph.erase_node(node)

    def _note(self, target: str, kind: str, reason: str | None = None) -> None:
        self.folded.append(FoldedPart(self.part.qualified(target), kind, reason))

"""Folds one part of a network that traces."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from ..graph.operations import called_module, is_carrier, is_identity_in_evaluation
from ..graph.running import attribute_of
from ..graph.tracing import Part
from ..layers.convolution import as_convolution, as_weighted
from ..layers.ghost_module import take_channels
from ..layers.layer_classes import is_kind, narrow
from .channel_orders import ChannelOrders
from .channel_streams import channel_streams
from .fold_report import FoldedPart
from .folded_ghost import FoldedGhost, fold_norm, permute_inputs
from .parted_maps import part_maps


def fold_part(
    root: nn.Module, part: Part, shared: set[str], modules: Mapping[str, nn.Module], split: bool
) -> tuple[fx.GraphModule, list[FoldedPart]]:
    """The folded form of one part of a network, and what became of its layers.

    Args:
        root: the module that the part traces.
        part: its graph, which is not changed.
        shared: targets of that graph that are called more than once, or read from outside.
        modules: all modules of the network as they were before other parts were folded, by their qualified names: a part of
            which only some modules run would lack the others.
        split: whether convolutions of maps that are made apart become sums of two.
    """
    folder = _PartFolder(part, shared, {part.relative(name): module for name, module in modules.items() if part.holds(name)})
    folder.drop_identities()
    folder.fold_norms()
    folder.fold_orders()
    part_maps(folder.graph, folder.modules, shared, split)
    return _graph_module(root, folder), folder.folded


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


class _PartFolder:
    """Works on a copy of a part's graph; ``folded`` notes each layer, and ``orders`` holds the indices that the graph reads.

    Args:
        part: a part of a network.
        shared: targets that are called more than once, or read from outside.
        modules: the modules of the part by their targets; folded ones take the places of others.
    """

    def __init__(self, part: Part, shared: set[str], modules: dict[str, nn.Module]):
        self.part, self.shared, self.modules = part, shared, modules
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(part.graph, {}))
        self.orders: dict[str, Tensor] = {}
        self.folded: list[FoldedPart] = []

    def drop_identities(self) -> None:
        """Take out what gives its input as it is in evaluation mode."""
        for node in list(self.graph.nodes):
            if is_identity_in_evaluation(node, called_module(node, self.modules)):
                self._replace(node, node.all_input_nodes[0])
                if node.op == "call_module":
                    self._note(str(node.target), "identity")

    def fold_norms(self) -> None:
        """Put norms into the layers before them."""
        for node, norm in self._calls():
            if not is_kind(norm, "norm"):
                continue
            before = node.all_input_nodes[0]
            layer = called_module(before, self.modules)
            reason = None
            if layer is None or not (is_kind(layer, "conv") or isinstance(layer, nn.Linear)):
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
                else:
                    self._replace(node, before)
            self._note(str(node.target), "norm", reason)

    def fold_orders(self) -> None:
        """Leave channels in the order in which Ghost modules compute them, as far as what follows can take them so."""
        streams = channel_streams(self.graph, self.modules, self.shared)
        orders = ChannelOrders(streams, self.modules)
        needs = {reader for _, reader in streams.needs}
        for node, module in self._calls():
            taken = None if node in needs or not node.args else orders.of(node.all_input_nodes[0])
            self._permute(node, orders.of(node), taken)
            if isinstance(module, FoldedGhost):
                self._note_order(str(node.target), module, orders.reason_for(node))
        restored: dict[fx.Node, fx.Node] = {}
        for value, reader in streams.needs:
            if (order := orders.of(value)) is not None:
                if value not in restored:
                    restored[value] = self._restore(value, torch.argsort(order), streams.dims[value])
                reader.replace_input_with(value, restored[value])

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
                permute_inputs(as_convolution(module), taken)

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

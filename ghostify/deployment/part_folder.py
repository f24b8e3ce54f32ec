"""Folds one part of a network that traces."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..graph.operations import is_identity_in_evaluation
from ..graph.running import attribute_of
from ..graph.tracing import Part
from ..layers.ghost_module import narrow, take_channels
from ..layers.patterns import is_kind
from .channel_orders import ChannelOrders, ChannelStream
from .fold_report import FoldedPart
from .folded_ghost import FoldedGhost, fold_norm, permute_inputs
from .parted_maps import MapParting


class PartFolder:
    """Folds one part that traces."""

    def __init__(self, root: nn.Module, part: Part, shared: set[str], known: dict[str, Any], split: bool):
        self.root, self.part = root, part
        self.shared, self.split = shared, split
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(part.graph, {}))
        # as they were before other parts were folded, or a part of which only some modules run would lack the others
        self.modules = {part.relative(name): module for name, module in known.items() if part.holds(name)}
        self.told: list[FoldedPart] = []

    def run(self) -> fx.GraphModule:
        self._strip()
        self._norms()
        self._orders()
        MapParting(self.graph, self.modules, self.shared, self.split)
        targets = {str(node.target) for node in self.graph.nodes if node.op in ("call_module", "get_attr")}
        named = {
            target: self.modules[target] if target in self.modules else attribute_of(self.root, self.part.constants, target)
            for target in targets
        }
        made = fx.GraphModule(named, self.graph, type(self.root).__name__)
        for name, value in vars(self.root).items():
            if name not in vars(made) and not name.startswith("_") and not isinstance(value, Tensor):
                setattr(made, name, value)  # what the code around this part may ask of it
        return made

    def _calls(self) -> Iterator[tuple[fx.Node, Any]]:
        """Calls of modules that stand in this place alone."""
        for node in list(self.graph.nodes):
            if node.op == "call_module":
                yield node, self.modules[str(node.target)]

    def _strip(self) -> None:
        for node in list(self.graph.nodes):
            module = self.modules[str(node.target)] if node.op == "call_module" else None
            if is_identity_in_evaluation(node, module):
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
                if node.op == "call_module":
                    self._tell(str(node.target), "identity")

    def _norms(self) -> None:
        for node, norm in self._calls():
            if not is_kind(norm, "norm"):
                continue
            before = node.all_input_nodes[0]
            layer = self.modules[str(before.target)] if before.op == "call_module" else None
            reason = None
            if layer is None or not (is_kind(layer, "conv") or isinstance(layer, nn.Linear)):
                reason = f"follows {'a ' + type(layer).__name__ if layer is not None else before.name}, not a convolution"
            elif len(before.users) > 1:
                reason = f"{before.target} has other users, too"
            elif {str(node.target), str(before.target)} & self.shared:
                reason = "is called more than once, as is the convolution, or one of the two"
            else:
                folded = fold_norm(layer, norm)
                if folded is None:
                    reason = f"{type(layer).__name__} or {type(norm).__name__} is not a fixed scale and shift"
                else:
                    self._replace(node, before, *folded)
            self._tell(str(node.target), "norm", reason)

    def _replace(self, node: fx.Node, before: fx.Node, layer: nn.Module, act: nn.Module | None) -> None:
        self.modules[str(before.target)] = layer
        if act is not None:
            self.modules[str(node.target)] = act
        else:
            node.replace_all_uses_with(before)
            self.graph.erase_node(node)

    def _orders(self) -> None:
        found = ChannelOrders(self.graph, self.modules, self.shared)
        for stream in found.streams:
            if stream.order is not None:
                self._permute(stream, stream.order)
        for stream in found.streams:
            for node in stream.ghosts:
                ghost = self.modules[str(node.target)]
                natural = torch.equal(ghost.made, torch.arange(len(ghost.made)))
                if ghost.order is not None:
                    reason = stream.fixed or "other layers that make the same sum have another order"
                    self._tell(str(node.target), "channel order", reason)
                elif not natural:
                    self._tell(str(node.target), "channel order")

    def _permute(self, stream: ChannelStream, order: Tensor) -> None:
        for node in stream.ghosts:
            self.modules[str(node.target)].set_order(order)
        for node in [*stream.free, *stream.carriers]:
            target = str(node.target)
            self.modules[target] = narrow(self.modules[target], order)
        for node in stream.takers:
            module = self.modules[str(node.target)]
            permute_inputs(module.primary[0] if isinstance(module, FoldedGhost) else module, order)
        restored: dict[fx.Node, fx.Node] = {}
        back = torch.argsort(order)
        for value, reader in stream.needs:
            if value not in restored:
                restored[value] = self._restore(value, back, stream)
            reader.replace_input_with(value, restored[value])

    def _restore(self, value: fx.Node, back: Tensor, stream: ChannelStream) -> fx.Node:
        name = f"order_of_{value.name}"
        self.modules[name] = back.to(next(self.root.parameters()).device)
        with self.graph.inserting_after(value):
            index = self.graph.get_attr(name)
        with self.graph.inserting_after(index):
            restored = self.graph.call_function(take_channels, (value, index, stream.dim))
        restored.meta["is_wrapped"] = True  # as a trace marks it: unpickling traces the code again
        return restored

    def _tell(self, target: str, kind: str, reason: str | None = None) -> None:
        self.told.append(FoldedPart(self.part.qualified(target), kind, reason))

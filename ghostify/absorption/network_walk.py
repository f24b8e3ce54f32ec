"""Walk through the calls of some layers of a network in execution order, with the values before and after each."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import fx, nn

from ..common.calls import Arguments, captured
from ..graph.running import GraphRun, arguments_of
from ..graph.tracing import Part, lies_in
from ..graph.usage import has_hooks


@dataclass(frozen=True)
class Place:
    """The call of a layer, in the run of the part that it lies in.

    Attributes:
        name: qualified name of the layer.
        node: its call.
        run: the values of the part; what visits of this layer and of later ones want is kept.
        part: the part.
    """

    name: str
    node: fx.Node
    run: GraphRun
    part: Part


class Visitor(Protocol):
    """What a walk is for."""

    def looks_at(self, place: Place) -> Collection[fx.Node]:
        """The nodes, besides the layer's inputs, whose values a visit of the place wants."""
        ...

    def visit(self, place: Place) -> None:
        """Whatever is to be done at a layer."""
        ...


class NetworkWalk:
    """Goes through a network part by part; what does not trace is run, and the parts in it with what they are called with.

    Args:
        model: in evaluation mode; it is not changed.
        parts: of the network by :func:`ghostify.graph.find_sites.trace_layers`.
        wanted: qualified names of the layers to stop at.
        visitor: asked what it looks at, and called, with the place of each.
        memory: bytes of values that may stay in memory; what is above goes to a temporary file.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part], wanted: Collection[str], visitor: Visitor, memory: int):
        self.model, self.parts, self.wanted, self.visitor, self.memory = model, parts, wanted, visitor, memory
        self._visited: set[int] = set()

    def run(self, calls: Collection[Arguments]) -> None:
        """Go through the whole network, given the arguments of a forward pass for each batch."""
        self._inside("", calls)

    def _inside(self, name: str, calls: Collection[Arguments]) -> None:
        """Go through the parts that lie in the module ``name``, given its calls."""
        for index, part in enumerate(self.parts):
            if index in self._visited or not lies_in(part.entry, name) or not self._any_wanted(part.entry):
                continue
            self._visited.add(index)
            is_asked_for = part.entry == name and not has_hooks(self.model.get_submodule(name))
            inner = calls if is_asked_for else captured(self.model, name, part.entry, calls)
            if inner:
                self._part(part, inner)

    def _part(self, part: Part, calls: Collection[Arguments]) -> None:
        run = GraphRun(self.model.get_submodule(part.name), part, calls, self.memory)
        calling = [(part.qualified(str(node.target)), node) for node in run.nodes if node.op == "call_module"]
        stops = [Place(name, node, run, part) for name, node in calling if self._any_wanted(name)]
        values = [{*place.node.all_input_nodes, *self._looks_at(place)} for place in stops]
        try:
            for index, place in enumerate(stops):
                # a visit may run ahead, past layers that are still to be visited: what their visits want is kept
                run.kept = set().union(*values[index:])
                self._stop(place)
        finally:
            run.close()

    def _looks_at(self, place: Place) -> Collection[fx.Node]:
        return self.visitor.looks_at(place) if place.name in self.wanted else ()

    def _stop(self, place: Place) -> None:
        if place.name in self.wanted:
            self.visitor.visit(place)
            return
        inputs = list(place.node.all_input_nodes)
        names = [source.name for source in inputs]
        values = (dict(zip(names, some, strict=True)) for some in place.run.run(inputs))
        self._inside(place.name, [arguments_of(place.node, some) for some in values])

    def _any_wanted(self, name: str) -> bool:
        return any(lies_in(wanted, name) for wanted in self.wanted)

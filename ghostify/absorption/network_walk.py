"""Walk through the calls of some layers of a network in execution order, with the values before and after each."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import fx, nn

from ..common.calls import Arguments, captured
from ..graph.running import GraphRun, arguments_of
from ..graph.tracing import Part, lies_in


@dataclass(frozen=True)
class Place:
    """The call of a layer, in the run of the part that it lies in.

    Attributes:
        name: qualified name of the layer.
        node: its call.
        run: the values of the part; those that the layer and later ones see are kept.
        part: the part.
    """

    name: str
    node: fx.Node
    run: GraphRun
    part: Part


class NetworkWalk:
    """Goes through a network part by part; what does not trace is run, and the parts in it with what they are called with.

    Args:
        model: in evaluation mode; it is not changed.
        parts: of the network by :func:`ghostify.graph.find_sites.trace_layers`.
        wanted: qualified names of the layers to stop at.
        visit: called with the place of each.
        memory: bytes of values that may stay in memory; what is above goes to a temporary file.
    """

    def __init__(
        self, model: nn.Module, parts: Sequence[Part], wanted: Collection[str], visit: Callable[[Place], None], memory: int
    ):
        self.model, self.parts, self.wanted, self.visit, self.memory = model, parts, wanted, visit, memory
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
            inner = calls if part.entry == name else captured(self.model, name, part.entry, calls)
            if inner:
                self._part(part, inner)

    def _part(self, part: Part, calls: Collection[Arguments]) -> None:
        run = GraphRun(self.model.get_submodule(part.name), part, calls, self.memory)
        stops = [node for node in run.nodes if node.op == "call_module" and self._any_wanted(part.qualified(str(node.target)))]
        try:
            for index, node in enumerate(stops):
                # a visit may run ahead, past layers that are still to be visited: what these see is kept
                run.kept = {source for later in stops[index:] for source in later.all_input_nodes}
                self._stop(part.qualified(str(node.target)), node, run, part)
        finally:
            run.close()

    def _stop(self, name: str, node: fx.Node, run: GraphRun, part: Part) -> None:
        if name in self.wanted:
            self.visit(Place(name, node, run, part))
            return
        inputs = list(node.all_input_nodes)
        names = [source.name for source in inputs]
        self._inside(name, [arguments_of(node, dict(zip(names, some, strict=True))) for some in run.run(inputs)])

    def _any_wanted(self, name: str) -> bool:
        return any(lies_in(wanted, name) for wanted in self.wanted)

"""Graphs in which no tensor is read after an operation has changed it in place."""

from collections.abc import Iterator

from torch import fx, nn

from .operations import called_module, changes_input


def without_aliases(graph: fx.Graph, root: nn.Module) -> fx.Graph:
    """A graph in which whoever reads a tensor after it was changed in place reads the result of that change.

    Nodes can then run in any order that their inputs allow, and values can leave memory in between. It is a copy, or the graph
    itself where nobody does.
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    if not any(_readers_after(graph, modules)):
        return graph
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    for node, changed, later in _readers_after(copied, modules):
        changed.replace_all_uses_with(node, delete_user_cb=later.__contains__)
    return copied


def _readers_after(graph: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[tuple[fx.Node, fx.Node, set[fx.Node]]]:
    """Nodes that change another's value in place, that other, and who reads the value later; the graph may change meanwhile."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in order:
        changed = node.args[0] if node.args and changes_input(node, called_module(node, modules)) else None
        if isinstance(changed, fx.Node):
            later = {user for user in changed.users if order[user] > order[node]}
            if later:
                yield node, changed, later

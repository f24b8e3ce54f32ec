"""Graphs in which no tensor is read after an operation has changed it in place."""

from torch import fx, nn

from .operations import called_module, changes_input


def without_aliases(graph: fx.Graph, root: nn.Module) -> fx.Graph:
    """A copy in which whoever reads a tensor after it was changed in place reads the result of that change.

    Nodes can then run in any order that their inputs allow, and values can leave memory in between.
    """
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    modules = dict(root.named_modules(remove_duplicate=False))
    order = {node: i for i, node in enumerate(copied.nodes)}
    for node in copied.nodes:
        changed = node.args[0] if node.args and changes_input(node, called_module(node, modules)) else None
        if isinstance(changed, fx.Node):
            later = {user for user in changed.users if order[user] > order[node]}
            changed.replace_all_uses_with(node, delete_user_cb=later.__contains__)
    return copied

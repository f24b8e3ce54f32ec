"""Operations that change their input in place, and graphs without aliases."""

import operator

from torch import fx, nn

_INPLACE_OPERATORS = {operator.iadd, operator.imul, operator.isub, operator.itruediv}


def without_aliases(graph: fx.Graph, root: nn.Module) -> fx.Graph:
    """A copy in which whoever reads a tensor after it was changed in place reads the result of that change.

    Nodes can then run in any order that their inputs allow, and values can leave memory in between.
    """
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    order = {node: i for i, node in enumerate(copied.nodes)}
    for node in copied.nodes:
        changed = node.args[0] if node.args and changes_input(node, called_module(node, root)) else None
        if isinstance(changed, fx.Node):
            later = {user for user in changed.users if order[user] > order[node]}
            changed.replace_all_uses_with(node, delete_user_cb=later.__contains__)
    return copied


def called_module(node: fx.Node, root: nn.Module) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def changes_input(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node changes its first input in place; ``module`` is what it calls, if it calls one."""
    if node.op == "call_module":
        return bool(getattr(module, "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    by_name = name.endswith("_") and not name.endswith("__")  # as all of torch's are called
    return by_name or node.target in _INPLACE_OPERATORS or node.kwargs.get("inplace") is True

"""Which nodes of a graph depend on which."""

from torch import fx


def depends_on(node: fx.Node, other: fx.Node) -> bool:
    """Whether ``other`` is needed to compute ``node``, or is ``node`` itself."""
    return other in with_ancestors(node)


def with_ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all nodes that are needed to compute it."""
    ahead, seen = [node], {node}
    while ahead:
        for source in ahead.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                ahead.append(source)
    return seen

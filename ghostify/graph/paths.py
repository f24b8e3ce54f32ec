"""Which nodes of a graph depend on which."""

from torch import fx


def depends_on(node: fx.Node, other: fx.Node) -> bool:
    """Whether ``other`` is needed to compute ``node``."""
    ahead, seen = [node], {node}
    while ahead:
        node = ahead.pop()
        if node is other:
            return True
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                ahead.append(source)
    return False

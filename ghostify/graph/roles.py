"""The roles of layers in a network: first, last, on pooled maps."""

from torch import fx, nn

from ..layers.ghost_module import GhostModule
from ..layers.layer_classes import is_kind, lookup
from .operations import is_global_pool, keeps_pooled, operation_of
from .sites import is_listed
from .tracing import Part


def roles_of(part: Part, modules: dict[str, nn.Module]) -> dict[fx.Node, frozenset[str]]:
    """The roles of each node: ``first`` (no convolution stands before it), ``pooled`` (it works on 1x1 maps), ``last``.

    Args:
        part: a part of a model.
        modules: all modules of the model, by their qualified names.
    """
    after_conv: set[fx.Node] = set()
    pooled: set[fx.Node] = set()
    roles_by_node: dict[fx.Node, frozenset[str]] = {}
    last = _last_weights(part, modules)
    for node in part.graph.nodes:
        module = modules[part.qualified(str(node.target))] if node.op == "call_module" else None
        seen = any(source in after_conv for source in node.all_input_nodes)
        on_pool = bool(node.all_input_nodes) and all(source in pooled for source in node.all_input_nodes)
        roles = {"first": not seen, "pooled": on_pool, "last": node in last}
        roles_by_node[node] = frozenset(role for role, holds in roles.items() if holds)
        if seen or (module is not None and _holds_conv(module)):
            after_conv.add(node)
        if is_global_pool(node, module) or (on_pool and keeps_pooled(node, module)):
            pooled.add(node)
    return roles_by_node


def _holds_conv(module: nn.Module) -> bool:
    return any(is_kind(m, "conv") or isinstance(m, GhostModule) for m in module.modules())


_SQUASHING = (nn.Sigmoid, nn.Tanh)  # what makes probabilities or pixels of scores


def _last_weights(part: Part, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """Calls of layers, and of modules that hold some, after which no other layer, norm or activation stands before the output.

    A sigmoid or a tanh is a part of the output.
    """
    last: set[fx.Node] = set()
    only_output: set[fx.Node] = set()
    for node in reversed(part.graph.nodes):
        module = modules[part.qualified(str(node.target))] if node.op == "call_module" else None
        if node.op != "output" and not (node.users and only_output.issuperset(node.users)):
            continue
        if module is None:
            activation = operation_of(node, None).activation
            passes = activation is None or activation in _SQUASHING
        elif any(is_listed(m) for m in module.modules()):  # a layer, or a module whose inside has a graph of its own
            last.add(node)
            passes = False
        else:
            passes = isinstance(module, _SQUASHING) or not (lookup(module) or next(module.parameters(), None) is not None)
        if passes:
            only_output.add(node)
    return last

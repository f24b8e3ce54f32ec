"""Find, in a traced graph, where the output of a site is added to a shortcut."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from ..layers.layer_classes import is_kind
from .functions_as_modules import activation_of_function
from .operations import called_module, is_sum, leads_to_sum


@dataclass(frozen=True)
class Sum:
    """The node that adds a branch to its shortcut, the node of the shortcut, and the activation that follows the sum."""

    node: fx.Node
    shortcut: fx.Node
    act: nn.Module | None


def find_sum(node: fx.Node, modules: Mapping[str, nn.Module], norm_name: str | None) -> Sum | None:
    """The sum that the value of ``node`` enters, past its norm and what changes nothing; None where there is no sum.

    Args:
        node: the call of a convolution or of the Ghost module in its place.
        modules: the modules that the graph calls, by the names it calls them.
        norm_name: the name of the norm that belongs to the convolution; None where there is no norm.
    """
    while len(node.users) == 1:
        user = next(iter(node.users))
        if is_sum(user):
            other = user.args[1] if user.args[0] is node else user.args[0]
            if isinstance(other, fx.Node) and other is not node:
                return Sum(user, other, _activation_after(user, modules))
            return None
        own_norm = user.op == "call_module" and user.target == norm_name
        if not own_norm and not leads_to_sum(user, called_module(user, modules)):
            return None
        node = user
    return None


def _activation_after(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    if user.op == "call_module":
        module = modules[str(user.target)]
        return module if is_kind(module, "activation") else None
    return activation_of_function(user)

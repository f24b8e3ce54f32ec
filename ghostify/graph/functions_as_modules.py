"""Activations that a network calls as functions or methods, and the modules that stand for them."""

import inspect

from torch import fx, nn

from ..common.files import PlainData
from .operations import OPERATIONS, operation_of


def activation_of_function(node: fx.Node) -> nn.Module | None:
    """The module that computes what the function or method called by ``node`` computes.

    None where the node calls no activation, or where an argument of it is computed by the network itself.
    """
    activation = operation_of(node, None).activation
    if activation is None:
        return None
    names = [name for name in getattr(activation, "__constants__", ()) if name != "inplace"]
    arguments = dict(zip(names, node.args[1:], strict=False))
    arguments.update((name, value) for name, value in node.kwargs.items() if name in names)
    if any(isinstance(value, fx.Node) for value in arguments.values()):
        return None
    return activation(**arguments)


def describe_activation(act: nn.Module) -> PlainData:
    """A module that :func:`activation_of_function` gave, as plain data: the name of its class and its settings."""
    settings = {name: getattr(act, name) for name in getattr(act, "__constants__", ()) if hasattr(act, name)}
    return {"class": type(act).__name__, **settings}


def activation_from(description: PlainData) -> nn.Module:
    """The module that :func:`describe_activation` described.

    Raises:
        KeyError: there is no activation function of this class.
        TypeError: the class has other settings.
    """
    classes = {entry.activation.__name__: entry.activation for entry in OPERATIONS.values() if entry.activation}
    activation = classes[description["class"]]
    fixed = {*getattr(activation, "__constants__", ())} - {*inspect.signature(activation).parameters}  # the bounds of ReLU6
    return activation(**{name: value for name, value in description.items() if name != "class" and name not in fixed})

"""Which hooks of a network matter to what it computes: those that hold parts of it; others may do anything outside."""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Collection, Iterator

from torch import nn


def all_hooks(network: nn.Module) -> set[int]:
    """The keys of all forward hooks and those before; copies have the same keys."""
    return {key for module, name in _hook_dicts(network) for key in vars(module)[name]}


def hooks_with_modules(network: nn.Module) -> set[int]:
    """The keys of the hooks that hold modules, parameters or buffers of the network, as methods and closures may."""
    hooks = [item for module, name in _hook_dicts(network) for item in vars(module)[name].items()]
    parts = {id(part) for part in (*network.modules(), *network.parameters(), *network.buffers())} if hooks else set()
    return {key for key, hook in hooks if _holds(hook, parts)}


def keep_hooks(network: nn.Module, keys: Collection[int]) -> None:
    """Take all other hooks off a network; dicts of hooks that it shares with others stay as they are."""
    for module, name in list(_hook_dicts(network)):
        kept = [(key, hook) for key, hook in vars(module)[name].items() if key in keys]
        setattr(module, name, OrderedDict(kept))


def _hook_dicts(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules with hooks, and where they have them."""
    for module in network.modules():
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            if vars(module).get(name):
                yield module, name


def _holds(function: object, parts: set[int]) -> bool:
    """Whether a function has some objects (ids) in its closure, its arguments or its globals, or is a method of one."""
    if isinstance(function, functools.partial):
        inner = [function.func, *function.args, *function.keywords.values()]
        return any(id(value) in parts or (callable(value) and _holds(value, parts)) for value in inner)
    try:
        held = inspect.getclosurevars(inspect.unwrap(function))  # type: ignore[arg-type]
        values = [*held.nonlocals.values(), *held.globals.values()]
    except (TypeError, ValueError):
        values = []
    values += [function, getattr(function, "__self__", None), *(getattr(function, "__defaults__", None) or ())]
    return any(id(value) in parts for value in values)

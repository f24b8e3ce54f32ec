"""What a copy of a network uses of the network itself, since functions in it hold that: lambdas, closures and hooks."""

import copy
import operator
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..common.calls import forward_hooks

_MOST = 1000  # elements of a list or dict up to which lists in it are looked at, too

_READ = frozenset({"__bool__", "__float__", "__index__", "__int__", "item", "numpy", "tolist"})  # give values, not tensors

_OF_TORCH = vars(nn.Module()).keys() - {"_buffers"}  # the other attributes that torch keeps of each module

_PLAIN = (dict, OrderedDict, defaultdict, list, set)  # others may do anything when they are read

_Change = tuple[nn.Module, str, object]


@contextmanager
def intruders(original: nn.Module, copied: nn.Module, names: list[str]) -> Iterator[None]:
    """Note what of the original is used while the block runs its copy.

    Args:
        original: it does not run itself.
        copied: with parameters that are objects of their own, though they may share memory.
        names: gets the names of layers of the original that run, and of parameters and buffers that functions of torch read.
    """
    name_of = {module: name for name, module in original.named_modules() if module._parameters or module._buffers}
    own = {id(tensor) for tensor in [*copied.parameters(), *copied.buffers()]}
    tensors = {id(t): name for name, t in [*original.named_parameters(), *original.named_buffers()] if id(t) not in own}

    def note(module: nn.Module, args: object) -> None:
        names.append(name_of[module])

    with forward_hooks(before=[(module, note) for module in name_of]), _TensorsRead(tensors, names):
        yield


class _TensorsRead(TorchFunctionMode):
    """Notes which of some tensors functions of torch read; asking for a shape, type or device is no reading.

    Args:
        name_of: by their id.
        names: gets the names of those read.
    """

    def __init__(self, name_of: Mapping[int, str], names: list[str]):
        super().__init__()
        self._name_of, self._names = name_of, names

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        result = function(*args, **(kwargs or {}))
        for value in (*args, *(kwargs or {}).values()):
            for one in value if type(value) in (list, tuple) else (value,):
                if id(one) in self._name_of and (_holds_tensor(result) or getattr(function, "__name__", "") in _READ):
                    self._names.append(self._name_of[id(one)])
        return result


def _holds_tensor(result: object) -> bool:
    return isinstance(result, Tensor) or (isinstance(result, (list, tuple)) and any(map(_holds_tensor, result)))


@contextmanager
def attributes_kept(network: nn.Module) -> Iterator[list[_Change]]:
    """Attributes and buffers of a network's modules are afterwards the objects that they were, and dicts, lists and sets in
    them hold what they held. What had changed is in the list that is given: modules, names, and values as they were left."""
    before = [(module, _attributes(module)) for module in network.modules()]
    held: dict[int, tuple[Any, Any]] = {}
    for _, attributes in before:
        for value in attributes.values():
            _hold(value, held)
    changes: list[_Change] = []
    try:
        yield changes
    finally:
        for module, attributes in before:
            now = _attributes(module)
            for name in now.keys() | attributes.keys():
                if name not in now or name not in attributes or _is_changed(attributes[name], now[name], held):
                    changes.append((module, name, _rebuilt(now[name]) if name in now else None))
        for module, name, _ in changes:
            vars(module).pop(name, None)
        for module, attributes in before:
            vars(module).update({name: value for name, value in attributes.items() if vars(module).get(name) is not value})
        for value, content in held.values():
            if not _is_same(value, content):
                value.clear()
                value.extend(content) if isinstance(value, list) else value.update(content)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OF_TORCH and not name.startswith("_ghostify")}


def _hold(value: object, held: dict[int, tuple[Any, Any]]) -> None:
    """Remember what a dict, list or set holds, and those in it."""
    if type(value) not in _PLAIN or id(value) in held:
        return
    held[id(value)] = value, copy.copy(value)
    for one in _inner(value):
        _hold(one, held)


def _inner(value: object) -> list[object]:
    """What a dict, list or set holds, where that is not too much to look at."""
    if type(value) not in _PLAIN or len(value) > _MOST:  # type: ignore[arg-type]
        return []
    return list(value.values() if isinstance(value, dict) else value)  # type: ignore[call-overload]


def _is_same(value: Any, content: Any) -> bool:
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        return all(map(operator.is_, value, content)) and all(map(operator.is_, value.values(), content.values()))
    return value == content if isinstance(value, set) else all(map(operator.is_, value, content))


def _is_changed(before: object, now: object, held: dict[int, tuple[Any, Any]]) -> bool:
    """Whether an attribute is another object, or a dict, list or set in it holds something else."""
    if before is not now:
        return True
    ahead, seen = [now], set()
    while ahead:
        value = ahead.pop()
        if id(value) in held and id(value) not in seen:
            seen.add(id(value))
            if not _is_same(*held[id(value)]):
                return True
            ahead += _inner(value)
    return False


def _rebuilt(value: Any) -> Any:
    """The same with dicts, lists and sets of their own."""
    if type(value) not in _PLAIN:
        return value
    rebuilt = copy.copy(value)
    if isinstance(value, dict):
        rebuilt.update((key, _rebuilt(one)) for key, one in value.items())
    elif isinstance(value, list):
        rebuilt[:] = map(_rebuilt, value)
    return rebuilt

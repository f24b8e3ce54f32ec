"""Copies of a module in which some parts are replaced before anything is copied.

``copy.deepcopy`` looks every object up in its memo first. Filling that memo beforehand decides what a copy shares,
what it swaps and what it never allocates: the dense weights of a converted convolution are not copied at all.
"""

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .traced_networks import set_mode, with_two_graphs

M = TypeVar("M", bound=nn.Module)


T = TypeVar("T")

_OF_TORCH = frozenset(vars(nn.Module()))  # the attributes that torch keeps of each module


def copy_swapped(model: M, swaps: Mapping[nn.Module, nn.Module]) -> M:
    """A deep copy of ``model`` with each key of ``swaps`` replaced by its value, in every place it stands in.

    The plain attributes of what is replaced go to what replaces it.
    """
    memo: dict[int, object] = {id(old): new for old, new in swaps.items()}
    gone = {id(part) for old in swaps for part in old.modules()}
    for module in model.modules():
        if id(module) not in gone:
            # a derived tensor (the weight of an old-style weight_norm) has a graph behind it and refuses deepcopy
            memo.update((id(t), t.detach().clone()) for t in plain_tensors(module).values() if not t.is_leaf)
    copied = _deepcopy(model, memo)
    for old, new in swaps.items():
        vars(new).update(_deepcopy(plain_attributes(old, new), memo))
    return copied


def become(old: nn.Module, new: nn.Module) -> None:
    """Make a module into another one in all places at once: under each of its names, in plain lists, in functions that hold it.

    Args:
        old: it keeps its identity and its plain attributes, and is of the other's class afterwards.
        new: a module that is used for nothing else.
    """
    state = {**plain_attributes(old, new), **vars(new)}
    vars(old).clear()
    vars(old).update(state)
    object.__setattr__(old, "__class__", type(new))


@contextmanager
def standing_in(swaps: Mapping[nn.Module, nn.Module]) -> Iterator[None]:
    """Modules are others while the block runs, as :func:`become` makes them.

    Args:
        swaps: each module, and what it is meanwhile.
    """
    before = {old: (type(old), dict(vars(old))) for old in swaps}
    try:
        for old, new in swaps.items():
            become(old, new)
        yield
    finally:
        for old, (kind, state) in before.items():
            vars(old).clear()
            vars(old).update(state)
            object.__setattr__(old, "__class__", kind)


def plain_attributes(old: nn.Module, new: nn.Module) -> dict[str, object]:
    """The attributes of a layer that are no part of what torch keeps of a module, and for which another has no answer."""
    return {
        name: value
        for name, value in vars(old).items()
        if name not in _OF_TORCH and not name.startswith("_ghostify") and not hasattr(new, name)
    }


def copy_skeleton(model: M, is_leaf: Callable[[nn.Module], bool]) -> M:
    """A copy in evaluation mode, without hooks, that shares parameters and leaf modules with ``model``.

    Forward code above the leaves may run on it and leave what it likes in the copies; calling a leaf would not be safe.
    """
    shared = {id(m): m for m in model.modules() if m is not model and is_leaf(m)}
    own = {id(buffer) for buffer in model.buffers()}
    skeleton = _deepcopy(model, {**{id(t): t for t in _tensors(model) if id(t) not in own}, **shared})
    for module in skeleton.modules():
        if id(module) not in shared:
            module.training = False
            clear_hooks(module)
    return skeleton


def copy_shared(model: M) -> M:
    """A copy of the modules that shares all tensors with ``model``: modes and submodules can be changed, weights can't."""
    return _deepcopy(model, {id(t): t for t in _tensors(model)})


def copy_to_run(model: M, own: Collection[Tensor] = (), aliases: bool = False) -> M:
    """A copy that shares parameters with ``model`` and has buffers, attributes and modes of its own: a forward pass on it
    leaves the model as it was.

    Args:
        model: any module.
        own: parameters that the copy gets for itself, too.
        aliases: whether the parameters of the copy are objects of their own, which share memory with the model's.
    """
    apart = {id(parameter) for parameter in own}
    memo: dict[Any, Any] = {id(p): _alias(p) if aliases else p for p in model.parameters() if id(p) not in apart}
    for module in model.modules():
        memo.update((id(t), t.detach().clone()) for t in plain_tensors(module).values() if not t.is_leaf)
    storages = memo.setdefault("torch", {})  # where torch notes those that are copied, since several tensors may share one
    for buffer in model.buffers():
        if type(buffer) is Tensor and not buffer.requires_grad and not vars(buffer) and _fills_storage(buffer):
            storage = buffer.untyped_storage()._cdata
            if storage not in storages:
                memo[id(buffer)] = buffer.clone()
                storages[storage] = memo[id(buffer)].untyped_storage()
    return _deepcopy(model, memo)


def _alias(parameter: Tensor) -> Tensor:
    """A parameter that shares memory with another; that one itself where it is of no plain class."""
    if type(parameter) is not nn.Parameter or parameter.is_inference():
        return parameter
    alias = nn.Parameter(parameter.detach(), parameter.requires_grad)
    vars(alias).update(vars(parameter))
    return alias


def _fills_storage(tensor: Tensor) -> bool:
    """Whether a tensor is all that lies in its storage, from the first number to the last."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or not tensor.is_contiguous():
        return False
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def copy_without_hooks(model: M) -> M:
    """A deep copy without hooks."""
    copied = deep_copy(model)
    for module in copied.modules():
        clear_hooks(module)
    return copied


def copy_to_meta(model: M) -> M:
    """A copy whose tensors have shapes and no values: shape inference on it needs no memory."""
    memo: dict[int, object] = {}
    for t in _tensors(model):
        empty = torch.empty_like(t, device="meta")
        memo[id(t)] = nn.Parameter(empty, t.requires_grad) if isinstance(t, nn.Parameter) else empty
    return _deepcopy(model, memo)


def on_meta(model: nn.Module) -> bool:
    """Whether a model has tensors that have shapes and no values."""
    return any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def channels_last(value: T) -> T:
    """A module, or maps (N, C, H, W), in the layout that processors run convolutions in fastest; in place on a module."""
    if isinstance(value, nn.Module):
        value.to(memory_format=torch.channels_last)
    elif isinstance(value, Tensor) and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)  # type: ignore[return-value]
    return value


def clear_hooks(module: nn.Module) -> None:
    """Take all hooks off a module."""
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(module, hooks).clear()


def _deepcopy(model: T, memo: dict[int, object]) -> T:
    try:
        if isinstance(model, nn.Module) and with_two_graphs(model):
            return _copy_in_mode(model, memo)
        return deep_copy(model, memo)
    except Exception as error:  # modules may copy themselves, with code of any kind
        raise UnsupportedModelError(
            f"the model {type(model).__name__} can't be deep-copied ({error}); convert a model that copy.deepcopy accepts"
        ) from error


def deep_copy(value: T, memo: dict[int, Any] | None = None) -> T:
    """As ``copy.deepcopy``, which takes several times as long to copy modules."""
    memo = {} if memo is None else memo
    if not isinstance(value, nn.Module):
        return copy.deepcopy(value, memo)
    scripted = {name: module for name, module in value.named_modules() if isinstance(module, torch.jit.ScriptModule)}
    # outside no_grad torch records how it copies the parameters of scripted modules, which are no leaves then
    with torch.no_grad() if scripted else nullcontext():
        _copy_modules(value, memo)
        copied = copy.deepcopy(value, memo)
    for name, module in copied.named_modules() if scripted else ():
        if name in scripted and isinstance(module, torch.jit.ScriptModule):
            for old, new in zip(scripted[name].parameters(recurse=False), module.parameters(recurse=False), strict=True):
                new.requires_grad_(old.requires_grad)
    return copied


_ATOMS = frozenset({type(None), bool, int, float, str, torch.dtype, torch.device})
_NAMES = frozenset({str})


def _copy_modules(model: nn.Module, memo: dict[int, Any]) -> None:
    """Copy the modules of a network from inside to outside into a memo, as copy.deepcopy would, in a fraction of its time.

    Args:
        model: its modules that copy themselves in their own way are left to copy.deepcopy, what lies in them aside.
        memo: of the copy; what it has already stays, and nothing is copied that lies in it.
    """
    found: dict[nn.Module, None] = {}
    ahead = [model]
    while ahead:
        module = ahead.pop()
        if module not in found and id(module) not in memo:
            found[module] = None
            ahead += [child for child in module._modules.values() if child is not None]
    for module in reversed(found):
        kind = type(module)
        if hasattr(kind, "__deepcopy__") or id(module) in memo:
            continue
        reduced: Any = module.__reduce_ex__(4)
        if reduced[:2] == (copyreg.__newobj__, (kind,)) and type(reduced[2]) is dict and not any(reduced[3:]):  # type: ignore[attr-defined]
            copied = memo[id(module)] = kind.__new__(kind)
            copied.__setstate__({name: _copied_value(value, memo) for name, value in reduced[2].items()})


def _copied_value(value: Any, memo: dict[int, Any]) -> object:
    """A deep copy of an attribute of a module."""
    kind = type(value)
    if kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value))):
        return value
    if (kind is not dict and kind is not OrderedDict) or id(value) in memo or not _NAMES.issuperset(map(type, value)):
        return copy.deepcopy(value, memo)
    copied: dict[str, object] = kind()
    memo[id(value)] = copied
    memo.setdefault(id(memo), []).append(value)  # kept, as copy.deepcopy does, so that no other gets its id meanwhile
    for name, one in value.items():
        copied[name] = memo[id(one)] if id(one) in memo else copy.deepcopy(one, memo)
    return copied


def _copy_in_mode(model: M, memo: dict[int, object]) -> M:
    """A deep copy of a network that holds traced ones with two graphs, which train all that they hold once they are copied.

    Args:
        model: it is copied.
        memo: of the copy, with what is shared, or put in the place of others.
    """
    given = [module for value in memo.values() if isinstance(value, nn.Module) for module in value.modules()]
    modes = {module: module.training for module in (*model.modules(), *given)}
    try:
        copied = copy.deepcopy(model, memo)
    finally:
        for module, training in modes.items():
            module.training = training
    originals = dict(model.named_modules())
    for name, module in copied.named_modules():
        if name in originals and module not in modes:
            set_mode(module, modes[originals[name]])
    return copied


def _tensors(model: nn.Module) -> list[Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        tensors += plain_tensors(module).values()
    return tensors


def plain_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Tensors kept as ordinary attributes, neither parameter nor buffer."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}


def copy_layer(layer: M) -> M:
    """A copy of a layer that shares its tensors and can be given others."""
    copied = layer.__class__.__new__(layer.__class__)
    copied.__dict__.update(layer.__dict__)
    copied._parameters, copied._buffers = dict(layer._parameters), dict(layer._buffers)
    return copied

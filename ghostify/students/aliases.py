"""Parameters and buffers that a network also holds outside of torch's own places: in lists, in functions, as views."""

import gc
from collections import defaultdict
from types import CodeType, FrameType, FunctionType, ModuleType

import torch
from torch import Tensor, nn

# what is not looked into: no network computes with what it holds, or it holds its tensors in places of its own
_NO_PARTS = (type, ModuleType, CodeType, FrameType, torch.optim.Optimizer, torch.jit.ScriptModule)


def aliased(model: nn.Module, other: nn.Module | None = None) -> set[str]:
    """Names of the parameters and buffers whose memory a network also holds in another way.

    That is in a plain attribute, a list or a dictionary, an argument of ``functools.partial``, the closure or the defaults of
    a function, or any object that one of its modules has. What functions and methods read from globals is not looked at.

    Args:
        model: any network.
        other: a network of which the model is a copy; then its tensors count that the model still holds, not the model's own.
    """
    names: dict[int, set[str]] = defaultdict(set)
    owner = model if other is None else other
    for name, tensor in [*owner.named_parameters(remove_duplicate=False), *owner.named_buffers(remove_duplicate=False)]:
        names[_memory(tensor)].add(name)
    found: set[str] = set()
    places = [place for module in model.modules() for place in (module._parameters, module._buffers)]
    seen: dict[int, object] = {id(place): place for place in places}  # with the objects, so that no other gets their id
    ahead: list[object] = [model]
    while ahead:
        one = ahead.pop()
        if id(one) in seen or isinstance(one, _NO_PARTS):
            continue
        seen[id(one)] = one
        if isinstance(one, Tensor):
            found |= names.get(_memory(one), set())
        else:
            ahead += filter(gc.is_tracked, _parts(one))
    return found


def _parts(one: object) -> list[object]:
    """What an object refers to; the globals of a function, from which all else is reached, are no part of it."""
    if isinstance(one, nn.Module):
        return [value for name, value in vars(one).items() if not _is_of_torch(one, name)]
    if isinstance(one, FunctionType):
        return [one.__closure__, one.__defaults__, one.__kwdefaults__, vars(one)]
    return gc.get_referents(one)


def _is_of_torch(module: nn.Module, name: str) -> bool:
    """Whether torch itself keeps an attribute in step: the list of a recurrent layer's weights, and what the old spectral_norm
    computes at each call."""
    return (name == "_flat_weights" and isinstance(module, nn.RNNBase)) or f"{name}_orig" in module._parameters


def _memory(tensor: Tensor) -> int:
    """What tells the memory of a tensor from that of others; views have that of what they are views of."""
    try:
        with torch._C.DisableTorchFunctionSubclass():
            return tensor.untyped_storage()._cdata
    except RuntimeError:  # sparse tensors have no one storage
        return id(tensor)

"""Copies of networks for inference: in evaluation mode, hooks and all, each weight that is made of others as a plain one."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ..common.copying import copy_swapped
from ..graph.usage import has_hooks

M = TypeVar("M", bound=nn.Module)

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks"),
)

_MADE_OF = ("g", "v", "orig", "u", "mask")  # what torch's hooks keep beside a weight that they make


def inference_copy(model: M) -> M:
    """A deep copy in evaluation mode that keeps hooks and takes no gradients.

    Weights that hooks or parametrizations make of others at each call (weight norm, spectral norm, pruning masks) are computed
    anew and become plain parameters: the tensor that such a hook left behind is one of the last call.

    Args:
        model: it is not changed.
    """
    copied = copy_swapped(model, {})
    for name, module in model.named_modules():
        if isinstance(module, fx.GraphModule) and has_hooks(module):  # torch.fx copies all but these
            copy_hooks(module, copied.get_submodule(name))
    copied.eval()
    with torch.no_grad():
        for module in list(copied.modules()):
            _fix_weights(module)
    return copied.requires_grad_(False)


def copy_hooks(source: nn.Module, target: nn.Module) -> None:
    """Register the hooks of one module on another, in the place of its own."""
    for name in HOOKS:
        setattr(target, name, copy.copy(getattr(source, name)))


def _fix_weights(module: nn.Module) -> None:
    """Make plain parameters of the weights that a module makes of others at each call; it is in evaluation mode."""
    if parametrize.is_parametrized(module):
        names = list(module.parametrizations)  # type: ignore[arg-type]
        values = {name: getattr(module, name).detach().clone() for name in names}
        module.__class__ = parametrize.type_before_parametrizations(module)  # torch's own way would change the original's class
        del module._modules["parametrizations"]
        for name, value in values.items():
            setattr(module, name, nn.Parameter(value, requires_grad=False))
        _drop_hooks_of_weights(module)
    for key, hook in list(module._forward_pre_hooks.items()):
        name = _made_by(hook, module)
        if name is None:
            continue
        hook(module, ())
        value = getattr(module, name).detach().clone()
        delattr(module, name)
        for part in _MADE_OF:
            module._parameters.pop(f"{name}_{part}", None)
            module._buffers.pop(f"{name}_{part}", None)
        setattr(module, name, nn.Parameter(value, requires_grad=False))
        del module._forward_pre_hooks[key]
        _drop_hooks_of_weights(module)


def _made_by(hook: object, module: nn.Module) -> str | None:
    """The name of the weight that a hook of torch's makes before each call; None for any other hook."""
    name = getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)
    if not isinstance(name, str) or name in module._parameters or not isinstance(getattr(module, name, None), Tensor):
        return None
    return name if any(f"{name}_{part}" in module._parameters for part in _MADE_OF) else None


def _drop_hooks_of_weights(module: nn.Module) -> None:
    """Take off a module those hooks on state dicts that torch registers with weights made of others."""
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            function = getattr(hook, "hook", hook)  # torch wraps some
            if str(getattr(function, "__module__", "")).startswith("torch.nn.utils."):
                del hooks[key]

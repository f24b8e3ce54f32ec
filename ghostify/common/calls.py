"""Calls of a network: their arguments, evaluation mode, errors, and what a module inside was called with."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from ..errors import ArgumentError
from .traced_networks import set_mode, with_two_graphs

PositionalArguments = tuple[Any, ...]  # arguments of a forward pass that have no names: mostly one tensor of images

Arguments = tuple[PositionalArguments, dict[str, Any]]

Hooks = Iterable[tuple[nn.Module, Callable[..., None]]]


@contextmanager
def forward_hooks(before: Hooks = (), after: Hooks = (), with_kwargs: bool = False) -> Iterator[None]:
    """Hooks on modules while the block runs; they are removed whatever happens.

    Args:
        before: modules with functions ``hook(module, args)`` that are called before the module's forward pass.
        after: modules with functions ``hook(module, args, output)`` that are called after it.
        with_kwargs: whether hooks get the keyword arguments of the call, too, after ``args``.
    """
    handles: list[RemovableHandle] = []
    try:
        for module, hook in before:
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=with_kwargs))
        for module, hook in after:
            handles.append(module.register_forward_hook(hook, with_kwargs=with_kwargs))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def collected_outputs(module: nn.Module) -> Iterator[list[Any]]:
    """A list to which each call of the module adds its output while the block runs."""
    outputs: list[object] = []

    def collect(module: nn.Module, args: object, output: object) -> None:
        outputs.append(output)

    with forward_hooks(after=[(module, collect)]):
        yield outputs


def batch_size_of(arguments: Arguments) -> int:
    """Images in the first tensor among the arguments of a call; 1 where there is none, or it has no batch."""
    tensor = next((t for t in tree_leaves(arguments) if isinstance(t, Tensor) and t.dim() > 0), None)
    return 1 if tensor is None or tensor.dim() < 4 else len(tensor)


def of_each_size(calls: Iterable[Arguments], most: int = 3) -> list[Arguments]:
    """The first call with images of each size, at most so many; numbers of images do not count."""
    found: dict[tuple[tuple[int, ...], ...], Arguments] = {}
    for arguments in calls:
        sizes = tuple(tuple(t.shape[1:]) for t in tree_leaves(arguments) if isinstance(t, Tensor))
        found.setdefault(sizes, arguments)
    return list(found.values())[:most]


def captured(model: nn.Module, outer: str, inner: str, calls: Collection[Arguments]) -> list[Arguments]:
    """The arguments of each call of the module ``inner`` while ``outer`` runs.

    Args:
        model: the network that both modules lie in.
        outer, inner: qualified names of the modules.
        calls: arguments that ``outer`` is called with, one after the other.
    """
    arguments: list[Arguments] = []

    def note(module: nn.Module, args: PositionalArguments, kwargs: dict[str, Any]) -> None:
        arguments.append((args, kwargs))

    with forward_hooks(before=[(model.get_submodule(inner), note)], with_kwargs=True), torch.no_grad():
        for args, kwargs in calls:
            model.get_submodule(outer)(*args, **kwargs)
    return arguments


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode while the block runs; every module gets its own flag back afterwards."""
    modes = {module: module.training for module in model.modules()}
    if any(modes.values()) or with_two_graphs(model):
        model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training is not training or isinstance(module, fx.GraphModule):
                set_mode(module, training)


def _inputs_of(model: nn.Module) -> list[str]:
    """The names of the arguments that a network can't be called without."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except ValueError:  # code of C has no signature
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def run_checked(model: nn.Module, args: PositionalArguments, kwargs: dict[str, Any]) -> Any:
    """One forward pass, and what it returns.

    Raises:
        ArgumentError: the model does not take these images.
    """
    try:
        return model(*args, **kwargs)
    except Exception as error:  # code of any kind runs here
        shapes = ", ".join(str(tuple(t.shape)) for t in args if isinstance(t, Tensor)) or "a list"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        inputs = _inputs_of(model)
        if len(inputs) > len(args) + len(kwargs) and isinstance(error, TypeError):
            raise ArgumentError(
                f"{type(model).__name__} takes {len(inputs)} inputs ({', '.join(inputs)}), and images gives it one, the first "
                "tensor of each batch, since what follows are labels: take a part of the network that has one input, or a "
                "module around it that makes the others"
            ) from error
        hint = "; give batches (N, C, H, W), not single images" if isinstance(args[0], Tensor) and args[0].dim() == 3 else ""
        raise ArgumentError(f"images of shape {shapes} do not fit {type(model).__name__}: {lines[0]}{hint}") from error


def in_double(arguments: Arguments) -> Arguments:
    """The same with floating-point values in double precision."""
    return tree_map(lambda one: one.double() if isinstance(one, Tensor) and one.is_floating_point() else one, arguments)

"""Tensors of a file into a student that is built on the meta device, checked before and after."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.copying import plain_tensors
from ..common.tensors import load_strictly, state_of
from ..errors import ArgumentError
from ..layers.ghost_module import INDICES, GhostModule
from ..surgery.swap import put
from .aliases import aliased
from .conversion_recipe import ConversionRecipe
from .other_head import other_head
from .replay import replay


def check_shapes(student: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check, before anything is read, that the names and shapes in a file are those of the student.

    Args:
        student: the student as the recipe builds it, on any device.
        shapes: shapes of the file's tensors by their names.
        path: the file, for messages.

    Raises:
        ArgumentError: the file is of another network.
    """
    needed = {name: tuple(value.shape) for name, value in state_of(student).items() if not _is_index(name)}
    for name, module in student.named_modules(remove_duplicate=False):
        if isinstance(module, GhostModule):
            prefix, ghosts = f"{name}." if name else "", module.out_channels - module.intrinsic_channels
            sizes = {f"{prefix}channel_order": (module.out_channels,), f"{prefix}ghost_source": (ghosts,)}
            needed |= {index: shape for index, shape in sizes.items() if index in shapes}  # absent where it changes nothing
    if head := other_head({name: shape for name, shape in shapes.items() if name in needed or not _is_index(name)}, needed):
        raise ArgumentError(f"student {str(path)!r} does not fit: {head}")
    for name in sorted(needed.keys() | shapes.keys()):
        if needed.get(name) != shapes.get(name):
            raise ArgumentError(
                f"student {str(path)!r} was made of another network: {name!r} has shape {shapes.get(name, 'none')} in the "
                f"file, and {needed.get(name, 'none')} in this network"
            )


def fill(student: nn.Module, tensors: dict[str, Tensor], original: Callable[[], nn.Module]) -> None:
    """Give a student on the meta device its values.

    Args:
        student: the student, changed in place.
        tensors: values of its state dict.
        original: builds the original network, from which comes what no state dict has.

    Raises:
        ArgumentError: the tensors do not fit.
    """
    tied: dict[int, list[str]] = defaultdict(list)
    for name, parameter in student.named_parameters(remove_duplicate=False):
        tied[id(parameter)].append(name)
    _load(student, tensors, assign=True)
    for names in tied.values():
        for name in names[1:]:
            put(student, name, student.get_parameter(names[0]))
    missing = [
        (path, name)
        for path, module in student.named_modules()
        for name, value in [*module._buffers.items(), *plain_tensors(module).items()]
        if value is not None and value.is_meta
    ]
    if missing:
        network = original()
        for path, name in missing:
            setattr(student.get_submodule(path), name, getattr(network.get_submodule(path), name).detach().clone())


def fill_in_place(network: nn.Module, recipe: ConversionRecipe, tensors: dict[str, Tensor]) -> nn.Module:
    """The student of a network that holds some of its tensors in several ways: each of them sees the values.

    Args:
        network: the original, which is not changed.
        recipe: recipe of the student.
        tensors: values of the student's state dict.

    Raises:
        ArgumentError: the tensors do not fit, the network is not on the CPU, or it holds a tensor where its value can't be put.
    """
    held = aliased(network)
    registered = [*network.parameters(), *network.buffers()]
    if any(tensor.device.type != "cpu" for tensor in registered):
        raise ArgumentError(f"the network holds {min(held)!r} in several ways: give load a factory that builds it on the CPU")
    student = replay(network, recipe)
    for name, tensor in [*student.named_parameters(), *student.named_buffers()]:
        if name in tensors and tensor.dtype != tensors[name].dtype:
            tensor.data = tensors[name].clone()
    _load(student, tensors)
    if lost := (held - aliased(student)) | aliased(student, network):
        raise ArgumentError(
            f"the network also holds {min(lost)!r} outside of its layer, where no value can be put: in a function, or where "
            "the student has another layer or type; let the network read the layer instead, or convert it with that layer kept"
        )
    return student


def _load(student: nn.Module, tensors: dict[str, Tensor], assign: bool = False) -> None:
    try:
        load_strictly(student, tensors, assign)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ArgumentError(f"the weights do not fit the recipe: {str(error).splitlines()[-1].strip()}") from error


def check_indices(student: nn.Module) -> None:
    """Check that what a depthwise kernel reads, and where each map goes, lies within the maps.

    Raises:
        ArgumentError: the indices of a Ghost module are none.
    """
    for name, module in student.named_modules():
        if isinstance(module, GhostModule):
            order, source = module.channel_order, module.ghost_source
            if any(index is not None and index.dtype != torch.int64 for index in (order, source)):
                raise ArgumentError(f"the student is damaged: the indices of {name!r} are no whole numbers")
            if order is not None and not torch.equal(order.sort().values, torch.arange(module.out_channels)):
                raise ArgumentError(f"the student is damaged: the channel order of {name!r} is no permutation")
            if source is not None and not bool(((source >= 0) & (source < module.intrinsic_channels)).all()):
                raise ArgumentError(f"the student is damaged: the ghost sources of {name!r} are no intrinsic maps")


def _is_index(name: str) -> bool:
    return name.rpartition(".")[2] in INDICES

"""Weights and students from and to files. Nothing is ever unpickled beyond plain tensors."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..common.checks import check_model, path_of
from ..common.copying import copy_to_meta, plain_tensors
from ..common.files import write_text
from ..common.tensors import checksum, versioned, write_tensors
from ..errors import ArgumentError, ArgumentTypeError
from ..layers.ghost_module import INDICES, GhostModule
from ..surgery.swap import put
from .architecture import Architecture, find_architecture
from .recipe import ConversionRecipe, recipe_of
from .replay import replay
from .weights import read_safetensors

KEY = "ghostify"  # of the JSON in the header


FOLDER_WEIGHTS, FOLDER_CONFIG = "model.safetensors", "config.json"


def save(student: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a student: its tensors as safetensors, and in the header what is needed to build it anew.

    The header has the recipe (each site with its ratio, cheap operation and layers), a checksum, and the name of the
    architecture where a network of timm or torchvision, converted by the recipe, is just this student.

    Args:
        student: what :func:`ghostify.convert` gave, in whatever state of calibration or training.
        path: file to write, which is replaced only once the new one is complete. Without a suffix a folder: with
            ``model.safetensors`` and ``config.json``, as the Hugging Face hub has them.

    Raises:
        ArgumentError: the model is no student, or the file can't be written; one that was there before is whole.

    Example:
        >>> ghostify.save(student, "resnet50_ghost.safetensors")
        >>> student = ghostify.load("resnet50_ghost.safetensors")
    """
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a torch.nn.Module, not {type(student).__name__}")
    check_model(student)
    path = path_of("path", path)
    recipe = recipe_of(student)
    if recipe is None and hasattr(student, "folding"):
        raise ArgumentError(
            f"student {type(student).__name__} is folded: save the one that was given to fold, or export this one"
        )
    if recipe is None:
        raise ArgumentError(f"student {type(student).__name__} was not made by ghostify.convert, so there is no recipe to save")
    architecture = find_architecture(student, recipe)
    state = {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
    told = {
        "recipe": recipe.to_dict(),
        "architecture": None if architecture is None else {"name": architecture.name, "settings": architecture.settings},
        "class": f"{type(student).__module__}.{type(student).__qualname__}",
    }
    folder = path.is_dir() or not path.suffix
    header = {"format": "pt", KEY: json.dumps({**told, "checksum": checksum(state, told)})}
    try:
        write_tensors(state, header, path / FOLDER_WEIGHTS if folder else path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError(f"{str(path)!r} can't be written: {reason}; what stood there before is whole") from error
    if folder:
        write_text(path / FOLDER_CONFIG, json.dumps({"library_name": "ghostify", **told}, indent=1))


def load(path: str | os.PathLike[str], factory: Callable[[], nn.Module] | nn.Module | None = None) -> nn.Module:
    """The student in a file or folder that :func:`ghostify.save` wrote, in evaluation mode, on the CPU.

    The recipe is replayed on the original network without tracing it, and the weights are loaded strictly. Nothing in the file
    is executed, and nothing is allocated before its header is known to fit the file and the network.

    Args:
        path: file or folder.
        factory: builds the original network, or is one, which is not changed; needed for students of networks that are
            neither timm's nor torchvision's.

    Raises:
        ArgumentError: the file is missing, damaged, of a newer format, holds no student, or that of another architecture; or
            a ``factory`` is needed.
    """
    path = path_of("path", path)
    file = path / FOLDER_WEIGHTS if path.is_dir() else path
    told, shapes = _header(file)
    recipe = ConversionRecipe.from_dict(told["recipe"])
    original: Callable[[], nn.Module]
    if factory is None:
        architecture = _architecture(told, file)
        bare, original = architecture.build("meta"), architecture.build
    else:
        network = _made(factory)
        bare, original = copy_to_meta(network), (lambda: network)
    student = replay(bare, recipe)
    _check_shapes(student, shapes, file)
    tensors = read_safetensors(file)
    if told["checksum"] != checksum(tensors, {key: value for key, value in told.items() if key != "checksum"}):
        raise ArgumentError(f"student {str(file)!r} is damaged: its checksum does not fit; fetch or write it again")
    _fill(student, tensors, original)
    _check_indices(student)
    return student.eval()


def _header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What the header tells of the student, and the shapes of the tensors."""
    if not path.is_file():
        raise ArgumentError(f"student {str(path)!r} does not exist")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        told = None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArgumentError(f"student {str(path)!r} is damaged, or no safetensors file: {error}") from error
    if told is None:
        raise ArgumentError(f"student {str(path)!r} holds no recipe: weights alone go into a model by its load_state_dict")
    if not isinstance(told, dict) or not {"recipe", "architecture", "class", "checksum"} <= told.keys():
        raise ArgumentError(f"student {str(path)!r} is damaged: its header lacks a part")
    return told, shapes


def _architecture(told: Mapping[str, Any], path: Path) -> Architecture:
    found = told["architecture"]
    if found is None:
        raise ArgumentError(
            f"student {str(path)!r} is a {told['class']}, which no name in timm or torchvision builds: pass factory=, a "
            "function that builds the original network"
        )
    try:
        name, settings = found["name"], dict(found["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f"student {str(path)!r} is damaged: {found!r} is no architecture") from error
    # these two alone: others could make a library read or fetch files
    if not settings.keys() <= {"num_classes", "in_chans"} or not all(type(value) is int for value in settings.values()):
        raise ArgumentError(f"student {str(path)!r} is damaged: {settings!r} are no settings of an architecture")
    return Architecture(name, settings)


def _made(factory: Any) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ArgumentTypeError(f"factory must build the original network, or be one, not {factory!r}")
    model = factory()
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"factory() must return a torch.nn.Module, not {type(model).__name__}")
    return model


def _check_shapes(student: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Before anything is read: the names and shapes in the file are those of the student."""
    own = {name: tuple(value.shape) for name, value in student.state_dict().items() if not _is_index(name)}
    for name, module in student.named_modules():
        if isinstance(module, GhostModule):
            prefix, ghosts = f"{name}." if name else "", module.out_channels - module.intrinsic_channels
            sizes = {f"{prefix}channel_order": (module.out_channels,), f"{prefix}ghost_source": (ghosts,)}
            own |= {index: shape for index, shape in sizes.items() if index in shapes}  # absent where it changes nothing
    for name in sorted(own.keys() | shapes.keys()):
        if own.get(name) != shapes.get(name):
            raise ArgumentError(
                f"student {str(path)!r} was made of another network: {name!r} has shape {shapes.get(name, 'none')} in the "
                f"file, and {own.get(name, 'none')} in this network"
            )


def _check_indices(student: nn.Module) -> None:
    """What a depthwise kernel reads, and where each map goes, lies within the maps."""
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


def _fill(student: nn.Module, tensors: dict[str, Tensor], original: Callable[[], nn.Module]) -> None:
    """Give a student on the meta device its values; what no state dict has comes from the network as it is built."""
    tied: dict[int, list[str]] = defaultdict(list)
    for name, parameter in student.named_parameters(remove_duplicate=False):
        tied[id(parameter)].append(name)
    try:
        student.load_state_dict(versioned(tensors, student), assign=True)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ArgumentError(f"the weights do not fit the recipe: {str(error).splitlines()[-1].strip()}") from error
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

"""save() and load(): a student in a file of safetensors. Nothing is unpickled or executed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from ..common.checks import check_has_weights, check_model, path_of
from ..common.copying import copy_to_meta
from ..common.files import write_text
from ..common.tensors import checksum_of_state, state_of, write_tensors
from ..errors import ArgumentError, ArgumentTypeError
from ..graph.usage import derivation, derived_modules
from .aliases import aliased
from .conversion_recipe import ConversionRecipe, not_converted, recipe_of
from .filling import check_indices, check_shapes, fill, fill_in_place
from .header import KEY, describe, header_text, read_header
from .replay import replay
from .weights import read_safetensors

FOLDER_WEIGHTS, FOLDER_CONFIG = "model.safetensors", "config.json"
RUN_WEIGHTS = "student.safetensors"  # in the folder of a run of distillation


def save(student: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a student: its tensors as safetensors, and in the header what is needed to build it anew.

    The header has the recipe (each site with its ratio, cheap operation and layers), a checksum, and the name of the
    architecture where a network of timm or torchvision, converted by the recipe, is just this student.

    Args:
        student: a network that :func:`ghostify.convert` gave, in whatever state of calibration or training.
        path: file to write, which is replaced only once the new one is complete. Without a suffix a folder: with
            ``model.safetensors`` and ``config.json``, as the Hugging Face hub has them.

    Raises:
        ArgumentError: the model is no student; a layer was pruned, weight-normed or parametrised after the conversion; or the
            file can't be written, where one that was there before is whole.

    Example:
        >>> ghostify.save(student, "resnet50_ghost.safetensors")
        >>> student = ghostify.load("resnet50_ghost.safetensors")
    """
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a torch.nn.Module, not {type(student).__name__}")
    check_model(student)
    check_has_weights("student", student)
    path = path_of("path", path)
    description = describe(student, saved_recipe(student))
    state = {name: value.detach().cpu().contiguous() for name, value in state_of(student).items()}
    folder = path.is_dir() or not path.suffix
    header = {"format": "pt", KEY: header_text(description, checksum_of_state(state, description))}
    try:
        write_tensors(state, header, path / FOLDER_WEIGHTS if folder else path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError(f"{str(path)!r} can't be written: {reason}; what stood there before is whole") from error
    if folder:
        write_text(path / FOLDER_CONFIG, json.dumps({"library_name": "ghostify", **description}, indent=1))


def load(path: str | os.PathLike[str], factory: Callable[[], nn.Module] | nn.Module | None = None) -> nn.Module:
    """The student in a file or folder that :func:`ghostify.save` wrote, in evaluation mode, on the CPU.

    The recipe is replayed on the original network without tracing it, and the weights are loaded strictly. Nothing in the file
    is executed, and nothing is allocated before its header is known to fit the file and the network.

    Args:
        path: file or folder, that of a run of :func:`ghostify.distill` included.
        factory: builds the original network, or is one, which is not changed; needed for students of networks that are
            neither timm's nor torchvision's.

    Raises:
        ArgumentError: the file is missing, damaged, of a newer format, holds no student, or that of another architecture; a
            ``factory`` is needed; or the network also holds a parameter or a buffer where its value can't be put, as the
            closure of a function, or the weight of a converted layer in a list.
    """
    path = path_of("path", path)
    file = _weights_in(path) if path.is_dir() else path
    header = read_header(file)
    recipe = header.recipe
    original: Callable[[], nn.Module]
    if factory is None:
        architecture = header.architecture(file)
        bare, original = architecture.build("meta"), architecture.build
    else:
        network = _original(factory)
        bare, original = copy_to_meta(network), (lambda: network)
    student = replay(bare, recipe)
    check_shapes(student, header.shapes, file)
    tensors = read_safetensors(file)
    if header.checksum != checksum_of_state(tensors, header.description):
        raise ArgumentError(f"student {str(file)!r} is damaged: its checksum does not fit; fetch or write it again")
    if aliased(bare if factory is None else original()):
        student = fill_in_place(original(), recipe, tensors)
    else:
        fill(student, tensors, original)
    check_indices(student)
    return student.eval()


def _weights_in(folder: Path) -> Path:
    """The file of a student in a folder of :func:`save`, or of a run of distillation."""
    of_run = folder / RUN_WEIGHTS
    return of_run if of_run.is_file() and not (folder / FOLDER_WEIGHTS).is_file() else folder / FOLDER_WEIGHTS


def saved_recipe(student: nn.Module) -> ConversionRecipe:
    """The recipe of a student, which :func:`save` needs.

    Raises:
        ArgumentError: the model is no student, or a layer of it was pruned, weight-normed or parametrised after the conversion.
    """
    recipe = recipe_of(student)
    if recipe is None and hasattr(student, "folding"):
        raise ArgumentError(
            f"student {type(student).__name__} is folded: save the one that was given to fold, or export this one"
        )
    if recipe is None:
        raise ArgumentError(not_converted(student))
    known = derived_modules(student) if recipe.derived is None else recipe.derived
    new = next((name for name in derived_modules(student) if name not in known), None)
    if new is not None:
        how = derivation(student.get_submodule(new))
        raise ArgumentError(f"layer {new!r} is {how}; do that before save: the original is not so, and load builds on that")
    return recipe


def _original(factory: object) -> nn.Module:
    """The original network: the factory itself, or what it builds."""
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ArgumentTypeError(f"factory must build the original network, or be one, not {factory!r}")
    model = factory()
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"factory() must return a torch.nn.Module, not {type(model).__name__}")
    return model

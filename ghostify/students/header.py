"""The header of a student's file: what is needed to build the student anew, as JSON beside the tensors."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from ..common.files import PlainData
from ..errors import ArgumentError
from .architecture import Architecture, find_architecture
from .conversion_recipe import ConversionRecipe

KEY = "ghostify"  # of the JSON in the header


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes:
        description: plain data: ``recipe``; ``architecture``, a name and settings, or None; ``class`` of the student.
        checksum: checksum of the tensors and of the description.
        shapes: shapes of the tensors by their names.
    """

    description: PlainData
    checksum: int
    shapes: dict[str, tuple[int, ...]]

    @property
    def recipe(self) -> ConversionRecipe:
        """The recipe.

        Raises:
            ArgumentError: the recipe is damaged or of a newer format.
        """
        return ConversionRecipe.from_dict(self.description["recipe"])

    def architecture(self, path: Path) -> Architecture:
        """What builds the original network.

        Args:
            path: file of the header, for messages.

        Raises:
            ArgumentError: none is known, so that a factory is needed, or the header is damaged.
        """
        architecture = self.description["architecture"]
        if architecture is None:
            raise ArgumentError(
                f"student {str(path)!r} is a {self.description['class']}, which no name in timm or torchvision builds: pass "
                "factory=, a function that builds the original network"
            )
        try:
            name, settings = architecture["name"], dict(architecture["settings"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArgumentError(f"student {str(path)!r} is damaged: {architecture!r} is no architecture") from error
        # these two alone: others could make a library read or fetch files
        if not settings.keys() <= {"num_classes", "in_chans"} or not all(type(value) is int for value in settings.values()):
            raise ArgumentError(f"student {str(path)!r} is damaged: {settings!r} are no settings of an architecture")
        return Architecture(name, settings)


def describe(student: nn.Module, recipe: ConversionRecipe) -> PlainData:
    """The description of a student, as :class:`Header` has it."""
    architecture = find_architecture(student, recipe)
    return {
        "recipe": recipe.to_dict(),
        "architecture": None if architecture is None else {"name": architecture.name, "settings": architecture.settings},
        "class": f"{type(student).__module__}.{type(student).__qualname__}",
    }


def header_text(description: PlainData, checksum: int) -> str:
    """The JSON that stands in the file under :data:`KEY`."""
    return json.dumps({**description, "checksum": checksum})


def read_header(path: Path) -> Header:
    """The header of a file; no tensor is read.

    Raises:
        ArgumentError: the file is missing or damaged, or has no recipe.
    """
    if not path.is_file():
        raise ArgumentError(f"student {str(path)!r} does not exist")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        content = None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArgumentError(f"student {str(path)!r} is damaged, or no safetensors file: {error}") from error
    if content is None:
        raise ArgumentError(f"student {str(path)!r} holds no recipe: weights alone go into a model by its load_state_dict")
    if not isinstance(content, dict) or not {"recipe", "architecture", "class", "checksum"} <= content.keys():
        raise ArgumentError(f"student {str(path)!r} is damaged: its header lacks a part")
    checksum = content.pop("checksum")
    return Header(content, checksum, shapes)

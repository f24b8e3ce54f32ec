"""Which function of timm or torchvision builds a network: found by building it anew and comparing."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..common.tensors import state_of
from ..common.text import first_line
from ..errors import ArgumentError, GhostifyError
from ..inputs.zoo import create_model
from ..layers.ghost_module import INDICES
from .conversion_recipe import ConversionRecipe
from .replay import replay

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """What :func:`ghostify.create_model` takes to build a network.

    Attributes:
        name: name of the model, such as ``timm/resnet50``.
        settings: arguments of the library's function, such as ``num_classes``.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, device: str = "cpu") -> nn.Module:
        """The untrained network.

        Args:
            device: where its parameters lie; ``"meta"`` allocates nothing.

        Raises:
            ArgumentError: the installed version of the library has no such model, or not with these settings.
        """
        try:
            return create_model(self.name, device=device, **self.settings)
        except ArgumentError:
            raise
        except Exception as error:  # the libraries check their settings with whatever comes along
            raise ArgumentError(f"the architecture {self.name!r} can't be built: {first_line(error)}") from error


def find_architecture(student: nn.Module, recipe: ConversionRecipe) -> Architecture | None:
    """The architecture from which the recipe makes just this student, weights aside; None where no name and settings do."""
    description = _description(student)
    for candidate in _candidates(student):
        try:
            rebuilt = replay(candidate.build("meta"), recipe)
        except GhostifyError as error:
            log.debug("%s: %s", candidate, error)
            continue
        if _description(rebuilt) == description and _shapes(rebuilt) == _shapes(student):
            return candidate
    return None


def _description(model: nn.Module) -> str:
    """The classes and settings of all modules, as text."""
    return f"{type(model).__module__}.{model!r}"


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of parameters and buffers. The indices of Ghost modules, which come with the weights, are left out."""
    state = state_of(model)
    return {name: tuple(value.shape) for name, value in state.items() if name.rpartition(".")[2] not in INDICES}


def _candidates(model: nn.Module) -> Iterator[Architecture]:
    """Architectures that may have built a model, by what the model tells of itself or by the file that its class lies in."""
    library, _, _ = type(model).__module__.partition(".models.")
    names: list[str] = []
    if library == "timm":
        config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
        name = config.get("architecture") if isinstance(config, Mapping) else getattr(config, "architecture", None)
        names = [f"timm/{name}"] if name else []
    elif library == "torchvision":
        import torchvision

        builders = {name: torchvision.models.get_model_builder(name) for name in torchvision.models.list_models()}
        file = type(model).__module__
        of_file = [name for name, build in builders.items() if build.__module__ == file]
        if ".detection." in file:  # where ssdlite.py builds the SSD of ssd.py
            of_file += [name for name, build in builders.items() if ".detection." in build.__module__ and name not in of_file]
        names = [f"torchvision/{name}" for name in of_file]
    for settings in _settings(model):
        for name in names:
            yield Architecture(name, settings)


def _settings(model: nn.Module) -> Iterator[dict[str, int]]:
    """Settings of an architecture: none, then as many classes as the model has, then as many input channels, too."""
    yield {}
    last = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    classes = getattr(model, "num_classes", None)
    classes = classes if isinstance(classes, int) else next(iter(last), None)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if classes is not None:
        yield {"num_classes": classes}
        if type(model).__module__.startswith("timm.") and first is not None and first.in_channels != 3:
            yield {"num_classes": classes, "in_chans": first.in_channels}

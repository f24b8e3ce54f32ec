"""Models by name, ``"resnet50"``, ``"timm/..."`` or ``"torchvision/..."``, and the input that each model takes."""

import difflib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..common.text import first_line
from ..errors import ArgumentError, ArgumentTypeError

log = logging.getLogger(__name__)

LIBRARIES = ("timm", "torchvision")


def list_models(library: str | None = None) -> list[str]:
    """Names that :func:`create_model` takes, as ``"timm/resnet50"``; of one library or of both."""
    names = {
        "timm": lambda: __import__("timm").list_models(),
        "torchvision": lambda: __import__("torchvision").models.list_models(),
    }
    return [f"{lib}/{name}" for lib in LIBRARIES if library in (None, lib) for name in names[lib]()]


def create_model(name: str, pretrained: bool = False, device: torch.device | str | None = None, **settings: Any) -> nn.Module:
    """Build a model of timm or torchvision.

    Args:
        name: ``"timm/resnet50"`` or ``"torchvision/resnet50"``; without a library, timm's is taken if there is one.
        pretrained: load the library's own default weights (needs a network connection the first time).
        device: where to build it; ``"meta"`` for structure without weights.
        settings: arguments of the library's own function, such as ``num_classes=10``.

    Raises:
        ArgumentError: an unknown name; the message lists names close to it. Pretrained weights that can't be fetched.
    """
    build: dict[str, Callable[..., nn.Module]] = {"timm": _build_timm, "torchvision": _build_torchvision}
    if not isinstance(name, str):
        raise ArgumentTypeError(f"name must be a string such as 'timm/resnet50', not {name!r}")
    library, bare = _resolve(name)
    target = torch.device(device or "cpu")
    if pretrained and target.type != "meta":
        return _build_pretrained(lambda: build[library](bare, True, **settings), library, bare, target)
    try:
        with target:
            return build[library](bare, pretrained, **settings)
    except (NotImplementedError, RuntimeError) as error:
        if target.type != "meta":
            raise
        log.debug("%s can't be built on the meta device: %s", name, error)  # its constructor computes with values
        return build[library](bare, False, **settings).to("meta")


def _build_pretrained(build: Callable[[], nn.Module], library: str, name: str, device: torch.device) -> nn.Module:
    try:
        with device:
            return build()
    except Exception as error:  # no network, no such weights, a broken download: each library has its own kinds
        raise ArgumentError(f"the pretrained weights of {library}/{name} can't be had: {first_line(error)}") from error


def _build_timm(name: str, pretrained: bool, **settings: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=pretrained, **settings)


def _build_torchvision(name: str, pretrained: bool, **settings: Any) -> nn.Module:
    import torchvision

    parameters = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    options: dict[str, object] = {"weights": "DEFAULT" if pretrained else None}
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3") and not pretrained:
        options["init_weights"] = False  # their own initialisation is slow, and deprecated
    return torchvision.models.get_model(name, **(options | settings))


def check_name(name: str) -> None:
    """Refuse a name that :func:`create_model` does not take.

    Raises:
        ArgumentError: an unknown name; the message lists names close to it.
    """
    _resolve(name)


def _resolve(name: str) -> tuple[str, str]:
    """The library of a model and its name there."""
    library, _, bare = name.rpartition("/")
    if library not in ("", *LIBRARIES):
        raise ArgumentError(f"unknown model {name!r}: a name starts with timm/ or torchvision/, or has no library")
    for candidate in LIBRARIES:
        if library in ("", candidate) and _is_model(candidate, bare):
            return candidate, bare
    known = [n.partition("/")[2] for n in list_models(library or None)]
    close = difflib.get_close_matches(bare, sorted(set(known)), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "ghostify zoo lists all names"
    raise ArgumentError(f"unknown model {name!r}: {hint}")


def _is_model(library: str, name: str) -> bool:
    if library == "timm":
        import timm

        return timm.is_model(name)
    import torchvision

    return name in torchvision.models.list_models()

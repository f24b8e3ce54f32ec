"""Models by name, ``"resnet50"``, ``"timm/..."`` or ``"torchvision/..."``, and the input that each model takes."""

import difflib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ArgumentError, ArgumentTypeError

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
        settings: of the library's own function, such as ``num_classes=10``.

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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArgumentError(f"the pretrained weights of {library}/{name} can't be had: {reason}") from error


def _build_timm(name: str, pretrained: bool, **settings: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=pretrained, **settings)


def _build_torchvision(name: str, pretrained: bool, **settings: Any) -> nn.Module:
    import torchvision

    parameters = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3") and not pretrained:
        options["init_weights"] = False  # their own initialisation is slow, and deprecated
    return torchvision.models.get_model(name, **(options | settings))


def check_name(name: str) -> None:
    """
    Raises:
        ArgumentError: an unknown name; the message lists names close to it.
    """
    _resolve(name)


def _resolve(name: str) -> tuple[str, str]:
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


def example_input(model: nn.Module) -> tuple[Any, ...] | None:
    """Arguments for one forward pass of a timm or torchvision model, batch size 1; None where the input isn't known.

    Tensors are zeros on the CPU, of the model's floating-point type.
    """
    shapes = _input_shapes(model)
    if shapes is None:
        return None
    tensors = [_zeros(model, shape) for shape in shapes]
    if _origin(model).startswith("torchvision.models.detection"):
        return ([tensors[0][0]],)
    return tuple(tensors)


def _input_shapes(model: nn.Module) -> list[tuple[int, ...]] | None:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        return [(1, *config["input_size"])]
    origin = _origin(model)
    if not origin.startswith("torchvision.models."):
        return None
    if ".optical_flow." in origin:
        return [(1, 3, 128, 128)] * 2
    if ".video." in origin:
        side = 112 if origin.endswith("video.resnet") else 224
        return [(1, 3, 16, side, side)]
    if ".segmentation." in origin:
        return [(1, 3, 520, 520)]
    if ".detection." in origin:
        return [(1, 3, 320, 320)]
    if origin.endswith("inception"):
        return [(1, 3, 299, 299)]
    side = getattr(model, "image_size", 224)
    return [(1, 3, side, side)] if isinstance(side, int) else None


def _origin(model: nn.Module) -> str:
    return type(model).__module__


def _zeros(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros(shape, dtype=dtype, device="cpu")


def as_arguments(model: nn.Module, example: Any) -> tuple[Any, ...]:
    """Forward arguments from what a user gives: a tensor, a shape such as (1, 3, 224, 224), or a tuple of arguments.

    Raises:
        ArgumentError, ArgumentTypeError: a shape with a size below 1; a word.
    """
    if isinstance(example, Tensor):
        return (example,)
    if isinstance(example, (tuple, list, torch.Size)) and example and all(type(size) is int for size in example):
        if min(example) < 1:
            raise ArgumentError(f"example_input has a size below 1: {tuple(example)}")
        return (_zeros(model, tuple(example)),)
    if isinstance(example, str):
        raise ArgumentTypeError(
            f"example_input must be a tensor, a shape such as (1, 3, 224, 224) or arguments, not {example!r}"
        )
    return tuple(example) if isinstance(example, tuple) else (example,)


def arguments_for(model: nn.Module, given: Any, what: str) -> tuple[Any, ...]:
    """Forward arguments: what a user gives (see as_arguments), or None for what the model is known to take.

    Raises:
        ArgumentError: neither is there; ``what`` needs them.
        ArgumentTypeError: see as_arguments.
    """
    arguments = example_input(model) if given is None else as_arguments(model, given)
    if arguments is None:
        raise ArgumentError(
            f"{what} needs an example_input such as (1, 3, 224, 224): {type(model).__name__} does not say what it takes"
        )
    return arguments


def one_input(model: nn.Module, given: Any, what: str) -> Tensor:
    """The same for what takes networks of one input alone.

    Raises:
        ArgumentError, ArgumentTypeError: see arguments_for; several inputs, or one without channels.
    """
    arguments = arguments_for(model, given, what)
    if len(arguments) != 1 or not isinstance(arguments[0], Tensor) or arguments[0].dim() < 2:
        raise ArgumentError(
            f"{what} takes networks of one input, a tensor (N, C, ...): of another, such as a detector, give it a part that "
            "does, such as model.backbone, with example_input or input_size"
        )
    return arguments[0]

"""The input that a network takes: what the user gives, or what the network is known to take."""

import torch
from torch import Tensor, nn

from ..common.calls import PositionalArguments
from ..errors import ArgumentError, ArgumentTypeError


def example_input(model: nn.Module) -> PositionalArguments | None:
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


def as_arguments(model: nn.Module, example: object) -> PositionalArguments:
    """Forward arguments from what a user gives: a tensor, a shape such as (1, 3, 224, 224), or a tuple of arguments.

    Raises:
        ArgumentError, ArgumentTypeError: a shape has a size below 1; a word is no input.
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


def arguments_for(model: nn.Module, example: object, what: str) -> PositionalArguments:
    """Forward arguments for something that needs them.

    Args:
        model: the network.
        example: what a user gives, see :func:`as_arguments`; None for what the model is known to take.
        what: the argument or function that needs them, for errors.

    Raises:
        ArgumentError, ArgumentTypeError: there are none, or they can't be used.
    """
    arguments = example_input(model) if example is None else as_arguments(model, example)
    if arguments is None:
        raise ArgumentError(
            f"{what} needs an example_input such as (1, 3, 224, 224): {type(model).__name__} does not say what it takes"
        )
    return arguments


def one_input(model: nn.Module, example: object, what: str) -> Tensor:
    """The input for something that takes networks of one input alone; arguments as for :func:`arguments_for`.

    Raises:
        ArgumentError, ArgumentTypeError: there is none, there are several, or it has no channels.
    """
    arguments = arguments_for(model, example, what)
    if len(arguments) != 1 or not isinstance(arguments[0], Tensor) or arguments[0].dim() < 2:
        raise ArgumentError(
            f"{what} takes networks of one input, a tensor (N, C, ...): of another, such as a detector, give it a part that "
            "does, such as model.backbone, with example_input or input_size"
        )
    return arguments[0]

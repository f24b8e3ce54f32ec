"""The input that a network takes: what the user gives, or what the network is known to take."""

import contextlib
import inspect
import io
import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..common.calls import Arguments, PositionalArguments, evaluation_mode
from ..common.copying import clear_hooks, copy_to_run, on_meta
from ..common.random_state import undisturbed
from ..errors import ArgumentError, ArgumentTypeError, UnsupportedModelError


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


def running_input(model: nn.Module, example: object = None) -> Arguments | None:
    """Arguments that the network runs on: what the user gives, else what its kind takes, else a guess that was tried.

    A guess is a batch of 2 random images, signals, volumes or rows, as wide as the first convolution or fully connected layer
    reads, of the smallest size that a copy of the network in evaluation mode runs on. Random numbers of the caller, buffers,
    modes and attributes of the network stay as they were; its hooks run only where it does not run without them.

    Args:
        model: any network.
        example: a tensor, a shape, or a tuple of arguments, which is not tried.

    Returns:
        Arguments and keyword arguments, on the device and of the type of the network's parameters; None where it runs on no
        guess, takes several inputs, or lies on the meta device.

    Raises:
        ArgumentError, ArgumentTypeError: ``example`` is no input, see :func:`as_arguments`.
    """
    if example is not None:
        return as_arguments(model, example), {}
    if on_meta(model):
        return None
    for hooks in (False, True):
        try:
            copied = copy_to_run(model)
        except UnsupportedModelError:
            return None
        for module in () if hooks else copied.modules():
            clear_hooks(module)
        for args in guessed_inputs(model):
            # the model itself, too: a closure may hold it and run it
            with evaluation_mode(model), evaluation_mode(copied), quiet():
                try:
                    copied(*args)
                except Exception:  # code of any kind runs here
                    continue
            return args, {}
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No gradients, no warnings, no words, and no trace in the caller's random states."""
    with torch.no_grad(), undisturbed(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def guessed_inputs(model: nn.Module) -> Iterator[PositionalArguments]:
    """Inputs that a network may take: what its kind takes, smaller first; then what its first layers say."""
    known = example_input(model)
    if known is not None and not all(isinstance(value, Tensor) for value in known):
        yield known
        return
    if known is not None and len(known) > 1:
        yield tuple(_random(model, tuple(tensor.shape)) for tensor in known)
        return
    if not _takes_one(model):
        return
    shapes = [] if known is None else _smaller(tuple(known[0].shape))
    for shape in dict.fromkeys([*shapes, *_shapes_of_layers(model)]):
        yield (_random(model, shape),)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield (torch.arange(2 * 64).view(2, 64).remainder(module.num_embeddings).to(module.weight.device),)
            return


def _smaller(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of a batch of images or videos of at most 64 pixels a side, and of one as the network takes them."""
    return [(2, *shape[1:-2], *(min(side, 64) for side in shape[-2:])), shape]


def _takes_one(model: nn.Module) -> bool:
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError:
        return False
    except ValueError:  # code of C has no signature
        return True
    return True


SIDES = {1: (64, 256, 1024, 4096, 16000, 16), 2: (64, 224, 32, 128, 256, 16, 28, 299), 3: (32, 16, 64, 8)}
"""Lengths of signals, sides of images and of volumes that are tried, by their dimensions."""


def _shapes_of_layers(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes of batches of 2 that the first layers of a network read, in the order in which it registers them."""
    seen: set[str] = set()
    for module in model.modules():
        channels, size = getattr(module, "in_channels", None), getattr(module, "kernel_size", None)
        if type(channels) is int and channels > 0 and isinstance(size, tuple) and len(size) in SIDES and "maps" not in seen:
            seen.add("maps")
            sides = dict.fromkeys([*_stated_sides(model), *SIDES[len(size)]])
            if getattr(module, "transposed", False):  # makes maps larger, from latent ones that are small
                sides = dict.fromkeys([1, 4, 8, 16, *sides])
            yield from ((2, channels, *[side] * len(size)) for side in sides)
        elif isinstance(module, nn.Linear) and module.in_features > 0 and "rows" not in seen:
            seen.add("rows")
            yield (2, module.in_features)
            yield (2, 16, module.in_features)


def _stated_sides(model: nn.Module) -> list[int]:
    """Sides of images that a network, or its configuration, has as an attribute."""
    owners = (model, getattr(model, "config", None), getattr(model, "cfg", None))
    sizes = [getattr(owner, name, None) for owner in owners for name in ("image_size", "img_size", "input_size")]
    sides = [size[-1] if isinstance(size, (tuple, list)) and size else size for size in sizes]
    return [side for side in sides if type(side) is int and 1 < side <= 1024]


def _random(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    parameter = next(
        (p for p in model.parameters() if p.is_floating_point()), torch.zeros((), dtype=torch.float32, device="cpu")
    )
    values = torch.randn(
        shape, generator=torch.Generator("cpu").manual_seed(math.prod(shape)), device="cpu", dtype=torch.float32
    )
    return values.to(parameter.device, parameter.dtype)


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

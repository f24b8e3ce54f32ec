"""Checks of settings and models; each error is one sentence that repeats what was given."""

import numbers
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import ArgumentError, ArgumentTypeError, UnsupportedModelError


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices.

    Raises:
        ArgumentError: with the setting's name and the choices.
    """
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def whole_number(name: str, value: object, least: int) -> int:
    """``value``, an int or an integer of numpy's, as an int.

    Raises:
        ArgumentError, ArgumentTypeError: it is no whole number, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ArgumentError(f"{name} must be at least {least}, not {value!r}")
    return int(value)


def positive_number(name: str, value: object) -> float:
    """``value`` as a float.

    Raises:
        ArgumentError: it is not a finite number above 0.
    """
    if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
        raise ArgumentError(f"{name} must be a number above 0, not {value!r}")
    return float(value)


def path_of(name: str, value: object) -> Path:
    """``value`` as a path.

    Raises:
        ArgumentTypeError: it is no path, or an empty one.
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ArgumentTypeError(f"{name} must be a path, not {value!r}")
    return Path(value)


def check_is_module(name: str, value: object) -> None:
    """Refuse what is no module.

    Raises:
        ArgumentTypeError: ``value`` is of another type.
    """
    if not isinstance(value, nn.Module):
        raise ArgumentTypeError(f"{name} must be a torch.nn.Module, not {type(value).__name__}")


def check_has_weights(name: str, model: nn.Module) -> None:
    """Refuse a model that was built without weights.

    Raises:
        ArgumentError: a parameter is on the meta device.
    """
    if any(p.is_meta for p in model.parameters()):
        raise ArgumentError(f"{name} is on the meta device and has no weights")


def check_is_not_student(teacher: nn.Module, student: nn.Module) -> None:
    """Refuse a student as its own teacher.

    Raises:
        ArgumentError: both are the same module.
    """
    if student is teacher:
        raise ArgumentError("teacher must be the original network, not the student itself")


def check_finite(name: str, model: nn.Module) -> None:
    """Refuse a model with NaN or infinite parameters, or with NaN in its buffers; infinite ones may be masks.

    Raises:
        ArgumentError: with the place of the first.
    """
    odd = (key for key, parameter in model.named_parameters() if not bool(parameter.detach().isfinite().all()))
    key = next(odd, None) or next((key for key, buffer in model.named_buffers() if bool(buffer.isnan().any())), None)
    if key is not None:
        raise ArgumentError(f"{name} has NaN or infinite weights in {key!r}")


def check_model(model: nn.Module) -> None:
    """Refuse what hides the real model or can't be rewritten.

    Raises:
        UnsupportedModelError: what it is, and what to pass instead.
    """
    name = type(model).__name__
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UnsupportedModelError(f"model is wrapped in {name}: pass model.module, and wrap the student afterwards")
    if name == "OptimizedModule":
        raise UnsupportedModelError("model is compiled: pass model._orig_mod, and compile the student afterwards")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError("model is a TorchScript module: pass the Python model it was made from")
    for path, module in model.named_modules():
        if any(is_lazy(p) for p in [*module._parameters.values(), *module._buffers.values()]):
            raise UnsupportedModelError(f"layer {path!r} ({type(module).__name__}) is not initialised: run the model once")

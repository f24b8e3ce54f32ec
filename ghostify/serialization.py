"""Weights from and to files. Nothing is ever unpickled beyond plain tensors."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ArgumentError
from .files import replacing
from .recipe import ConversionRecipe, recipe_of


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a file of weights into a model of the same architecture.

    Args:
        model: changed in place, unless the file does not fit.
        path: safetensors, or a state dict that ``torch.save`` wrote (also under a key ``state_dict`` or ``model``); it is
            read with ``weights_only=True``. A prefix ``module.`` of all names is dropped.

    Raises:
        ArgumentError: the file is missing or broken, or holds the weights of another architecture.
    """
    state = _read(Path(path))
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misfits = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    for names, what in ((missing, "lacks"), (extra, "has unknown"), (misfits, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ArgumentError(f"weights file {str(path)!r} {what} {min(names)!r}{more}: it is of another architecture")
    model.load_state_dict(state)


def read_student(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """The student in a file that :func:`write_weights` wrote.

    Args:
        model: its original network, which is not changed.

    Raises:
        ArgumentError: the file is missing or broken, holds no student, or that of another network.
    """
    from safetensors import SafetensorError, safe_open

    from .convert import convert_again

    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get("ghostify")
    except (SafetensorError, OSError) as error:
        raise ArgumentError(f"student {str(path)!r} can't be read: {error}") from error
    if told is None:
        raise ArgumentError(f"student {str(path)!r} holds no record of a conversion: ghostify convert and calibrate write one")
    student = convert_again(model, ConversionRecipe.from_dict(json.loads(told)))
    try:
        student.load_state_dict(_read(Path(path)))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ArgumentError(f"student {str(path)!r} was made of another network: {reason}") from error
    return student


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArgumentError(f"weights file {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # either library raises several kinds, all of which mean this
        raise ArgumentError(f"weights file {str(path)!r} can't be read: {str(error).splitlines()[0][:200]}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArgumentError(f"weights file {str(path)!r} holds no state dict of tensors")
    return state


def write_weights(student: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the tensors of a student as safetensors, with its recipe as JSON under ``ghostify`` in the header.

    The file appears under its name only once it is complete.
    """
    state: dict[str, Tensor] = {}
    seen: dict[tuple[int, int, tuple[int, ...]], str] = {}
    for name, value in student.state_dict().items():
        key = (value.untyped_storage().data_ptr(), value.storage_offset(), tuple(value.shape))
        # safetensors refuses tensors that share memory; tied ones are written once under each name
        state[name] = value.detach().cpu().contiguous() if key not in seen else value.detach().cpu().clone()
        seen[key] = name
    recipe = recipe_of(student)
    metadata = {"format": "pt"} | ({"ghostify": json.dumps(recipe.to_dict())} if recipe else {})
    write_tensors(state, metadata, path)


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: str | os.PathLike[str]) -> None:
    """Write safetensors; the file appears under its name only once it is complete."""
    from safetensors.torch import save_file

    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata)

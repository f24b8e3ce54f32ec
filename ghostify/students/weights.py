"""Weights from files into a network. Nothing is ever unpickled beyond plain tensors."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..common.tensors import load_strictly, state_of
from ..common.text import first_line
from ..errors import ArgumentError
from .other_head import other_head


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a file of weights into a model of the same architecture.

    Args:
        model: changed in place, unless the file does not fit.
        path: safetensors, or a state dict that ``torch.save`` wrote (also under a key ``state_dict`` or ``model``); it is
            read with ``weights_only=True``. A prefix ``module.`` of all names is dropped.

    Raises:
        ArgumentError: the file is missing or broken, or holds the weights of another architecture.
    """
    state = read_state(Path(path))
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    before = state_of(model)
    shapes, needed = ({name: tuple(value.shape) for name, value in tensors.items()} for tensors in (state, before))
    if head := other_head(shapes, needed):
        raise ArgumentError(f"weights file {str(path)!r} does not fit: {head}")
    missing, extra = sorted(before.keys() - state.keys()), sorted(state.keys() - before.keys())
    misfits = [name for name in before.keys() & state.keys() if before[name].shape != state[name].shape]
    for names, what in ((missing, "lacks"), (extra, "has unknown"), (misfits, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ArgumentError(f"weights file {str(path)!r} {what} {min(names)!r}{more}: it is of another architecture")
    load_strictly(model, state)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, as :func:`load_weights` takes it.

    Raises:
        ArgumentError: the file is missing or broken, or holds no state dict.
    """
    if not path.is_file():
        raise ArgumentError(f"weights file {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # either library raises several kinds, all of which mean this
        raise ArgumentError(f"weights file {str(path)!r} can't be read: {first_line(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArgumentError(f"weights file {str(path)!r} holds no state dict of tensors")
    return state


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, copied into memory: those that safetensors gives lie in the file, which may change."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}

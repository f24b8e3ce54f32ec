"""The state of a training in one file: tensors as safetensors, everything else as JSON in the header."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.tensors import checksum, versioned, write_tensors
from ..errors import ArgumentError, GhostifyError

FORMAT = 2


_KEY = "ghostify_recovery"


def write_checkpoint(path: Path, groups: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
    """Write groups of named tensors and plain facts under ``path``, which is replaced only once the new file is complete.

    Raises:
        GhostifyError: the disk is full, or the folder can't be written; the earlier file is whole.
    """
    tensors = {f"{group}/{name}": _own(tensor) for group, named in groups.items() for name, tensor in named.items()}
    told = json.dumps({"format": FORMAT, "crc": checksum(tensors), **facts})
    try:
        write_tensors(tensors, {"format": "pt", _KEY: told}, path)
    except Exception as error:  # safetensors has its own kind for a full disk
        raise GhostifyError(f"checkpoint {str(path)!r} can't be written: {error}; the one before it is whole") from error


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What :func:`write_checkpoint` wrote.

    Raises:
        ArgumentError: the file is truncated, corrupt or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata[_KEY])
    except KeyError as error:
        raise ArgumentError(f"{str(path)!r} is no checkpoint of a run: it is a file of another kind") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ArgumentError(f"checkpoint {str(path)!r} can't be read ({error}): delete it to start anew") from error
    if facts.get("format") != FORMAT:
        raise ArgumentError(f"checkpoint {str(path)!r} is of another version of ghostify: delete it to start anew")
    if facts.pop("crc") != checksum(tensors):
        raise ArgumentError(f"checkpoint {str(path)!r} is corrupt: its checksum does not fit; delete it to start anew")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    return groups, facts


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimizer's state, and what else there is of it."""
    state = optimizer.state_dict()["state"]
    tensors = {f"{i}/{key}": v for i, values in state.items() for key, v in values.items() if isinstance(v, Tensor)}
    plain = {f"{i}/{key}": v for i, values in state.items() for key, v in values.items() if not isinstance(v, Tensor)}
    return tensors, plain


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **plain}.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_state(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights that a checkpoint holds.

    Raises:
        ArgumentError: they are those of another student.
    """
    own = model.state_dict()
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise ArgumentError(f"checkpoint {str(path)!r} is of another student: its layers differ")
    model.load_state_dict(versioned(state, model))


def _own(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous and in memory of its own, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)

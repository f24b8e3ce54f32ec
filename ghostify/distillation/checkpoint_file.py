"""Groups of tensors and plain facts in one file: tensors as safetensors, everything else as JSON in the header."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..common.files import PlainData
from ..common.tensors import checksum_of_state, write_tensors
from ..errors import ArgumentError, GhostifyError

FORMAT = 2

_KEY = "ghostify_recovery"


def write_checkpoint(path: Path, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, object]) -> None:
    """Write groups of named tensors and plain facts under ``path``, which is replaced only once the new file is complete.

    Raises:
        GhostifyError: the disk is full, or the folder can't be written; the earlier file is whole.
    """
    tensors = {f"{group}/{name}": _writable(tensor) for group, named in groups.items() for name, tensor in named.items()}
    header = json.dumps({"format": FORMAT, "crc": checksum_of_state(tensors), **facts})
    try:
        write_tensors(tensors, {"format": "pt", _KEY: header}, path)
    except Exception as error:  # safetensors has its own kind for a full disk
        raise GhostifyError(f"checkpoint {str(path)!r} can't be written: {error}; the one before it is whole") from error


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], PlainData]:
    """Read the groups of tensors and the facts that :func:`write_checkpoint` wrote. A group without tensors is missing.

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
    if facts.pop("crc") != checksum_of_state(tensors):
        raise ArgumentError(f"checkpoint {str(path)!r} is corrupt: its checksum does not fit; delete it to start anew")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    return groups, facts


def _writable(tensor: Tensor) -> Tensor:
    """A copy on the CPU, contiguous and in memory of its own, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)

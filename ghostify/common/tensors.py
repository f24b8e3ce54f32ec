"""Tensors in files: checksums, versions of state dicts, whole-file writes."""

import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import replacing


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network as torch makes it, whatever a method ``state_dict`` of the network's own would."""
    return nn.Module.state_dict(model)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], assign: bool = False) -> None:
    """Load a state dict strictly as torch does, whatever a method ``load_state_dict`` of the network's own would do.

    A file of tensors lacks the versions of modules; the state gets those that the modules have now, since some, torchvision's
    MNASNet among them, refuse a state without.

    Args:
        model: the network, changed in place.
        state: tensors by their names.
        assign: whether the tensors themselves become the network's, in place of their values.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    if not hasattr(state, "_metadata"):
        with_versions: OrderedDict[str, Tensor] = OrderedDict(state)
        with_versions._metadata = state_of(model)._metadata  # type: ignore[attr-defined]
        state = with_versions
    nn.Module.load_state_dict(model, state, assign=assign)


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: str | os.PathLike[str]) -> None:
    """Write safetensors; the file appears under its name only once it is complete.

    Args:
        tensors: tensors by their names; tied ones are written once under each name.
        metadata: texts for the header of the file.
        path: the file, which is replaced.
    """
    apart: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in tensors.items():
        # safetensors refuses tensors that share memory
        apart[name] = value.clone() if value.untyped_storage().data_ptr() in storages else value
        storages.add(value.untyped_storage().data_ptr())
    with replacing(Path(path)) as temporary:
        save_file(apart, temporary, metadata)


def checksum_of_state(tensors: Mapping[str, Tensor], data: object = None) -> int:
    """The checksum of a state dict: of names, types, shapes and values, whatever their order.

    Args:
        tensors: by their names.
        data: plain data that stands beside them in a file, and counts, too.
    """
    checksum = zlib.crc32(json.dumps(data, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(_bytes(tensor), checksum)
    return checksum


def checksum_of_values(tensors: Iterable[Tensor | list[Tensor]]) -> int:
    """The checksum of the values of tensors, or of lists of them, one after the other; their shapes do not count."""
    checksum = 0
    for tensor in tensors:
        for part in tensor if isinstance(tensor, list) else [tensor]:
            checksum = zlib.crc32(_bytes(part), checksum)
    return checksum


def checksum_of_weights(model: nn.Module) -> int:
    """The checksum of all values in a model's state dict; their names do not count."""
    return checksum_of_values(state_of(model).values())


def _bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
    return data

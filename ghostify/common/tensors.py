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


def versioned(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict with the versions that the modules of ``model`` have now, which a file of tensors lacks.

    Some modules, torchvision's MNASNet among them, refuse a state dict without versions.
    """
    if hasattr(state, "_metadata"):
        return state
    with_versions: OrderedDict[str, Tensor] = OrderedDict(state)
    with_versions._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    return with_versions


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
    return checksum_of_values(model.state_dict().values())


def _bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
    return data

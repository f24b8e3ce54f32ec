"""Tensors in files: checksums, versions of state dicts, whole-file writes."""

import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import replacing


def versioned(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict with the versions that the modules of ``model`` have now, which a file of tensors lacks.

    Some modules, torchvision's MNASNet among them, refuse a state dict that tells none.
    """
    if hasattr(state, "_metadata"):
        return state
    told: Any = OrderedDict(state)
    told._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    return told


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: str | os.PathLike[str]) -> None:
    """Write safetensors; the file appears under its name only once it is complete."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        # safetensors refuses tensors that share memory; tied ones are written once under each name
        own[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    with replacing(Path(path)) as temporary:
        save_file(own, temporary, metadata)


def checksum(tensors: Mapping[str, Tensor], told: Any = None) -> int:
    """Of names, types, shapes and values, and of plain data beside them."""
    value = zlib.crc32(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.detach().reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def checksum_of_weights(model: nn.Module) -> int:
    """Of all values in a state dict."""
    return checksum_of(model.state_dict().values())


def checksum_of(tensors: "Iterable[Tensor | list[Tensor]]") -> int:
    crc = 0
    for tensor in tensors:
        for part in tensor if isinstance(tensor, list) else [tensor]:
            crc = zlib.crc32(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), crc)  # type: ignore[arg-type]
    return crc

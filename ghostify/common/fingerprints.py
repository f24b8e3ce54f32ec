"""Digests of models and data, which tell one from another."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .tensors import state_of


def fingerprint(data: object) -> str:
    """16 hexadecimal digits.

    Args:
        data: a model, whose class and weights count; a tensor or an array, or several in a list, whose values count; a name or
            a path, which counts itself; anything else, such as a loader, whose class and length count.
    """
    digest = hashlib.sha256()
    if isinstance(data, nn.Module):
        digest.update(type(data).__name__.encode())
        parts: list[object] = list(state_of(data).values())
    else:
        parts = list(data) if isinstance(data, (tuple, list)) else [data]
    for part in parts:
        digest.update(_bytes_of(part))
    return digest.hexdigest()[:16]


def _bytes_of(part: Any) -> bytes:
    if isinstance(part, Tensor):
        return part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if hasattr(part, "tobytes"):
        return bytes(part.tobytes())
    if isinstance(part, (str, Path)):
        return str(part).encode()
    return f"{type(part).__name__} {len(part) if hasattr(part, '__len__') else ''}".encode()

"""Tensors and arrays as a user gives them."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError


def tensor_of(images: Tensor | np.ndarray) -> Tensor:
    """A tensor or an array as a tensor.

    Raises:
        ArgumentError, ArgumentTypeError: an array of what is no number; a tensor that is sparse or on the meta device.
    """
    try:
        tensor = torch.as_tensor(images)
    except TypeError as error:
        raise ArgumentTypeError(f"images is an array of {images.dtype}: give floating-point pixels") from error
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ArgumentError("images is a sparse or a meta tensor: give one with all its pixels")
    return tensor


def read_npy(path: Path, name: str) -> np.ndarray:
    """The array in a .npy file, which stays there until it is used.

    Args:
        path: of the file.
        name: of the argument, for errors.

    Raises:
        ArgumentError: there is no such file, or it holds no numbers.
    """
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError as error:
        raise ArgumentError(f"{name} {str(path)!r} does not exist") from error
    except (ValueError, EOFError) as error:
        raise ArgumentError(f"{name} {str(path)!r} can't be read: it is no .npy file of numbers") from error


def read_npz(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays ``images`` and ``labels`` of a .npz file.

    Args:
        path: of the file, as ``numpy.savez(path, images=..., labels=...)`` writes it.
        name: of the argument, for errors.

    Raises:
        ArgumentError: there is no such file, or it does not hold both.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise ArgumentError(f"{name} {str(path)!r} does not exist") from error
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise ArgumentError(f"{name} {str(path)!r} can't be read: it is no .npz file of numbers") from error
    if not {"images", "labels"} <= arrays.keys():
        raise ArgumentError(f"{name} {str(path)!r} must hold arrays images and labels, not {', '.join(arrays) or 'nothing'}")
    return arrays["images"], arrays["labels"]

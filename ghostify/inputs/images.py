"""Calibration images from whatever a user has: a tensor, an array, batches of any loader, a folder of pictures."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..common.calls import Arguments
from ..errors import ArgumentError, ArgumentTypeError
from .arrays import read_npy, tensor_of
from .batches import Images, first_images, placed
from .pictures import picture_batches

ImageData = Tensor | np.ndarray | Iterable[object] | str | os.PathLike[str]  # what a user has of images without labels


def as_calls(images: ImageData, model: nn.Module, max_images: int | None, batch_size: int) -> Iterator[Arguments]:
    """The arguments of a forward pass for each batch, on the model's device and of its type.

    Args:
        images: a tensor or array (N, C, H, W); an iterable of batches, such as a DataLoader, each a tensor, or a tuple or
            list that begins with one (what follows are labels, and is not used), or a list of (C, H, W) tensors for a
            detector; or the path of a folder of pictures, which get the model's own evaluation transform, or of a .npy file.
        model: the network that takes them.
        max_images: stop after this many; None for all.
        batch_size: images at a time, where the user does not give batches.

    Raises:
        ArgumentError, ArgumentTypeError: nothing in it, or not pixels of a floating-point type, or not finite.
    """
    count = 0
    for batch in _batches(images, model, batch_size, max_images):
        chunk = batch if max_images is None else batch[: max_images - count]
        count += len(chunk)
        yield (placed(chunk, model),), {}
        if count == max_images:
            return
    if not count:
        raise ArgumentError("images holds no image")


def _batches(images: ImageData, model: nn.Module, batch_size: int, max_images: int | None = None) -> Iterator[Images]:
    if isinstance(images, (str, Path)):
        yield from _stored_batches(Path(images), model, batch_size, max_images)
    elif isinstance(images, (Tensor, np.ndarray)):
        maps = tensor_of(images)
        if maps.dim() < 3:
            raise ArgumentError(f"images must have shape (N, C, H, W), not {tuple(maps.shape)}")
        yield from (batch for batch in maps.split(batch_size) if len(batch))
    elif isinstance(images, (dict, bytes)) or not isinstance(images, Iterable):
        raise ArgumentTypeError(
            f"images must be a tensor, an array, an iterable of batches or a folder, not {type(images).__name__}"
        )
    else:
        for item in images:
            batch = first_images(item)
            if isinstance(batch, Tensor):
                yield from (part for part in batch.split(batch_size) if len(part))
            else:
                yield batch


def _stored_batches(path: Path, model: nn.Module, batch_size: int, max_images: int | None) -> Iterator[Images]:
    if path.suffix == ".npy" and path.is_file():
        stored = read_npy(path, "images")
        for start in range(0, len(stored), batch_size):
            yield from _batches(np.array(stored[start : start + batch_size]), model, batch_size)
    else:
        yield from picture_batches(path, model, batch_size, max_images)


class Replayed:
    """What an iterator gives, as often as it is asked for; as much of it is kept as was asked for."""

    def __init__(self, iterator: Iterator[object]):
        self._iterator = iterator
        self._given: list[object] = []

    def __iter__(self) -> Iterator[object]:
        yield from self._given
        for item in self._iterator:
            self._given.append(item)
            yield item


def peek(calls: Iterator[Arguments]) -> tuple[Arguments, Iterator[Arguments]]:
    """The first batch, and all batches."""
    first = next(calls)
    return first, itertools.chain([first], calls)

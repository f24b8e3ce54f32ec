"""Batches for training and evaluation from loaders, tensors and arrays, folders of pictures and timm's data sets."""

import os
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors import ArgumentError, ArgumentTypeError
from .arrays import read_npy, read_npz, tensor_of
from .picture_sets import picture_loader

LabelledData = Tensor | np.ndarray | Iterable[object] | Dataset[object] | str | os.PathLike[str]  # what a user has to train on


@dataclass
class Source:
    """Batches, anew at each iteration.

    Attributes:
        batches: a DataLoader, or another iterable of batches.
        name: of the argument that they came from, for errors.
        plain: whether images are a tensor or an array as it was given, with no augmentation of its own.
        broken: one flag for each picture that could not be read; shared with the loader's processes.
    """

    batches: Iterable[Any]
    name: str = "train"
    plain: bool = False
    broken: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def __len__(self) -> int:
        """The number of batches; 0 where it is not known."""
        return self._length() or 0

    @property
    def is_empty(self) -> bool:
        """Whether it is known to have no batch."""
        return self._length() == 0

    def _length(self) -> int | None:
        try:
            return len(self.batches) if isinstance(self.batches, Sized) else None
        except TypeError:  # a loader of data without a length
            return None


def make_source(
    data: LabelledData,
    model: nn.Module,
    batch_size: int,
    *,
    training: bool,
    name: str = "train",
    workers: int | None = None,
    broken: str = "skip",
    once: bool = False,
) -> Source:
    """Batches of images and labels.

    Args:
        data: a DataLoader, a Dataset or another iterable of batches; a tensor or array of images (N, C, H, W), or a pair of
            them and labels (N,); the path of a .npy file of images, of a .npz file of ``images`` and ``labels``, or of a
            folder of pictures, one folder for each class; or a name of timm's such as ``"hfds/cifar10"`` or
            ``"torch/cifar10"``. Pictures get timm's transform for the model.
        model: the network that takes them.
        batch_size: images at a time, where the data are not batches already.
        training: shuffled, the last incomplete batch left out, with timm's training transform.
        name: of the argument, for errors.
        workers: processes that read pictures; None for one a core, eight at most.
        broken: ``"skip"`` takes the next picture for one that can't be read, ``"fail"`` raises.
        once: whether a single pass is all that is asked of it, so that a generator will do.

    Raises:
        ArgumentError, ArgumentTypeError: nothing in it, or nothing that can be used.
    """
    if isinstance(data, (str, os.PathLike)) and str(data).endswith(".npy"):
        data = read_npy(Path(data), name)
    elif isinstance(data, (str, os.PathLike)) and str(data).endswith(".npz"):
        data = read_npz(Path(data), name)
    if isinstance(data, (str, os.PathLike)):
        loader, flags = picture_loader(
            str(data),
            model,
            batch_size,
            training=training,
            name=name,
            workers=workers,
            fail_if_broken=broken == "fail",
        )
        return Source(loader, name, broken=flags)
    pair = _as_pair(data, name)
    if pair is not None:
        return _source_of_rows(*pair, batch_size, training, name)
    if isinstance(data, Dataset):
        listed = hasattr(data, "__len__")
        data = DataLoader(data, batch_size, shuffle=training if listed else None)
    if isinstance(data, (dict, bytes)) or not isinstance(data, Iterable):
        raise ArgumentTypeError(
            f"{name} must be a loader, images, (images, labels), a folder or the name of a data set, not {type(data).__name__}"
        )
    if not once and isinstance(data, Iterator):
        raise ArgumentError(f"{name} is a generator, which can be passed over only once: give a loader or a list of batches")
    source = Source(data, name)
    if source.is_empty:
        raise ArgumentError(f"{name} is empty: it has no batch")
    return source


def _source_of_rows(images: Tensor, labels: Tensor | None, batch_size: int, training: bool, name: str) -> Source:
    if images.dim() < 3:
        raise ArgumentError(f"{name} images must have shape (N, C, H, W), not {tuple(images.shape)}")
    if not len(images):
        raise ArgumentError(f"{name} holds no image")
    if labels is not None and len(labels) != len(images):
        raise ArgumentError(f"{name} has {len(images)} images and {len(labels)} labels")
    loader = DataLoader(_Rows(images, labels), min(batch_size, len(images)), shuffle=training, drop_last=training)
    return Source(loader, name, plain=True)


def _as_pair(data: object, name: str) -> tuple[Tensor, Tensor | None] | None:
    """Images and labels, None where there are none; None in place of both for data that are batches."""
    if isinstance(data, (Tensor, np.ndarray)):
        return tensor_of(data), None
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not isinstance(data[0], (Tensor, np.ndarray)):
        return None
    images, labels = tensor_of(data[0]), data[1]
    if labels is None:
        return images, None
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"{name} has labels that are no numbers: give class indices (N,)") from error
    if labels.dim() == images.dim():
        return None
    if labels.dim() not in (1, 3):
        raise ArgumentError(f"{name} has labels of shape {tuple(labels.shape)}: give class indices (N,)")
    return images, labels


class _Rows(Dataset[Tensor | tuple[Tensor, Tensor]]):
    """Images one by one, with their labels if there are any."""

    def __init__(self, images: Tensor, labels: Tensor | None):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, Tensor]:
        return self.images[index] if self.labels is None else (self.images[index], self.labels[index])

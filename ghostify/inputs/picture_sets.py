"""Loaders of labelled pictures: folders with a folder for each class, and timm's data sets."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..common.text import first_line
from ..errors import ArgumentError

Transform = Callable[[object], object]  # from a picture to what the network takes

TIMM_SETS = ("hfds/", "hfids/", "tfds/", "torch/", "wds/")


def picture_loader(
    path: str,
    model: nn.Module,
    batch_size: int,
    *,
    training: bool,
    name: str,
    workers: int | None,
    fail_if_broken: bool,
) -> tuple[DataLoader[object], Tensor]:
    """A loader of timm's, with its transform for the model; and one flag for each picture that could not be read.

    Args:
        path: of a folder, or a name such as ``"hfds/cifar10"``.
        model: a network of timm or torchvision.
        batch_size: pictures at a time; of a smaller set, all.
        training: shuffled and with timm's training transform.
        name: of the argument, for errors.
        workers: processes that read pictures; None for one a core, eight at most.
        fail_if_broken: whether a picture that can't be read is an error; otherwise the next one is taken. Pictures of timm's
            named sets are left to timm.

    Raises:
        ArgumentError: no folder and no name, or a model that does not say how pictures become input.
    """
    import timm.data

    is_named_set = path.startswith(TIMM_SETS)
    if not is_named_set and not Path(path).is_dir():
        raise ArgumentError(f"{name} {path!r} is neither a folder nor the name of a data set ({', '.join(TIMM_SETS)}...)")
    if not (getattr(model, "pretrained_cfg", None) or type(model).__module__.startswith("torchvision.models")):
        raise ArgumentError(
            f"{name} is a folder, and only models of timm and torchvision say how pictures become input: "
            "give a loader, arrays, or a .npy or .npz file of what the model takes"
        )
    split = "train" if training else "validation"
    try:
        dataset = timm.data.create_dataset(
            path if is_named_set else "", None if is_named_set else path, split, is_training=training
        )
    except (RuntimeError, ValueError, AssertionError, OSError, ImportError) as error:
        raise ArgumentError(f"{name} {path!r} can't be read: {first_line(error)}") from error
    if not is_named_set:
        dataset = _Pictures(dataset, fail_if_broken)
    config = timm.data.resolve_data_config({}, model=model)
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    loader = timm.data.create_loader(
        dataset,
        config["input_size"],
        min(batch_size, len(dataset)),
        is_training=training,
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        num_workers=workers,
        use_prefetcher=False,
        persistent_workers=False,
    )
    return loader, getattr(dataset, "broken", torch.zeros(0, dtype=torch.bool))


class _TimmPictures(Protocol):
    """What is used of a data set of pictures that timm makes."""

    transform: Transform
    reader: Sequence[tuple[BinaryIO, object]]  # for each picture its open file and its class
    _max_retries: int

    def __len__(self) -> int: ...

    def filename(self, index: int) -> str:
        """The path of a picture."""


class _Pictures(Dataset[tuple[object, object]]):
    """A picture data set of timm's in which broken files are counted, not only logged."""

    def __init__(self, dataset: _TimmPictures, fail: bool):
        self.dataset, self.fail = dataset, fail
        self.broken = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        dataset._max_retries = 1

    @property
    def transform(self) -> Transform:
        return self.dataset.transform

    @transform.setter
    def transform(self, value: Transform) -> None:
        self.dataset.transform = value

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[object, object]:
        for turn in range(len(self)):
            at = (index + turn) % len(self)
            if self.broken[at]:
                continue
            try:
                return self._read(at)
            except (OSError, SyntaxError) as error:  # of PIL, which raises both for files that are no pictures
                if self.fail:
                    raise ArgumentError(f"picture {self.dataset.filename(at)!r} can't be read: {error}") from error
                self.broken[at] = True
        raise ArgumentError("no picture can be read")

    def _read(self, index: int) -> tuple[object, object]:
        from PIL import Image

        file, target = self.dataset.reader[index][:2]
        with Image.open(file) as picture:
            image = picture.convert("RGB")
        return self.transform(image), -1 if target is None else target

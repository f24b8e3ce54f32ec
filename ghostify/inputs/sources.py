"""Batches for training and evaluation from loaders, tensors and arrays, folders of pictures and timm's data sets."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..common.processes import process_state
from ..errors import ArgumentError, ArgumentTypeError
from .images import first_images, placed, read_npy, tensor_of

TIMM_SETS = ("hfds/", "hfids/", "tfds/", "torch/", "wds/")


@dataclass
class Source:
    """Batches, anew at each iteration.

    Attributes:
        batches: a DataLoader, or another iterable of batches.
        name: of the argument that they came from, for errors.
        plain: whether images are a tensor or an array as it was given, with no augmentation of its own.
        broken: one flag for each picture that could not be read; shared with the loader's processes.
    """

    batches: Any
    name: str = "train"
    plain: bool = False
    broken: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def __len__(self) -> int:
        """Batches; 0 where that is not known."""
        try:
            return len(self.batches)
        except TypeError:
            return 0

    @property
    def is_empty(self) -> bool:
        """Whether it is known to have no batch."""
        try:
            return len(self.batches) == 0
        except TypeError:
            return False


def make_source(
    data: Any,
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
            them and labels (N,); the path of a .npy file of images, or of a folder of pictures, one folder for each class; or
            a name of timm's such as ``"hfds/cifar10"`` or ``"torch/cifar10"``. Pictures get timm's transform for the model.
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
    if isinstance(data, (str, os.PathLike)):
        return _pictures(str(data), model, batch_size, training, name, workers, broken)
    pair = _as_pair(data, name)
    if pair is not None:
        images, labels = pair
        if images.dim() < 3:
            raise ArgumentError(f"{name} images must have shape (N, C, H, W), not {tuple(images.shape)}")
        if not len(images):
            raise ArgumentError(f"{name} holds no image")
        if labels is not None and len(labels) != len(images):
            raise ArgumentError(f"{name} has {len(images)} images and {len(labels)} labels")
        rows: Any = _Rows(images, labels)
        size = min(batch_size, len(images))
        return Source(DataLoader(rows, size, shuffle=training, drop_last=training), name, plain=True)
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


def _as_pair(data: Any, name: str) -> tuple[Tensor, Tensor | None] | None:
    """Images and labels; None for what is batches."""
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


class _Rows(Dataset[Any]):
    def __init__(self, images: Tensor, labels: Tensor | None):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index] if self.labels is None else (self.images[index], self.labels[index])


class _Pictures(Dataset[Any]):
    """A picture data set of timm's in which broken files are counted, not only logged."""

    def __init__(self, dataset: Any, fail: bool):
        self.dataset, self.fail = dataset, fail
        self.broken = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()
        dataset._max_retries = 1

    @property
    def transform(self) -> Any:
        return self.dataset.transform

    @transform.setter
    def transform(self, value: Any) -> None:
        self.dataset.transform = value

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
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

    def _read(self, index: int) -> Any:
        from PIL import Image

        file, target = self.dataset.reader[index][:2]
        with Image.open(file) as picture:
            image = picture.convert("RGB")
        return self.transform(image), -1 if target is None else target


def _pictures(
    path: str, model: nn.Module, batch_size: int, training: bool, name: str, workers: int | None, broken: str
) -> Source:
    import timm.data

    known = path.startswith(TIMM_SETS)
    if not known and not Path(path).is_dir():
        raise ArgumentError(f"{name} {path!r} is neither a folder nor the name of a data set ({', '.join(TIMM_SETS)}...)")
    if not (getattr(model, "pretrained_cfg", None) or type(model).__module__.startswith("torchvision.models")):
        raise ArgumentError(
            f"{name} is a folder, and only models of timm and torchvision say how pictures become input: "
            "give a loader, an array or a .npy file"
        )
    split = "train" if training else "validation"
    try:
        dataset = timm.data.create_dataset(path if known else "", None if known else path, split, is_training=training)
    except (RuntimeError, ValueError, AssertionError, OSError, ImportError) as error:
        raise ArgumentError(f"{name} {path!r} can't be read: {str(error).splitlines()[0]}") from error
    if not known:
        dataset = _Pictures(dataset, broken == "fail")
    config = timm.data.resolve_data_config({}, model=model)
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    loader = timm.data.create_loader(
        dataset, config["input_size"], min(batch_size, len(dataset)), is_training=training, mean=config["mean"],
        std=config["std"], interpolation=config["interpolation"], crop_pct=config["crop_pct"], num_workers=workers,
        use_prefetcher=False, persistent_workers=False,
    )  # fmt: skip
    return Source(loader, name, broken=getattr(dataset, "broken", torch.zeros(0, dtype=torch.bool)))


def split_batch(item: Any, model: nn.Module, name: str = "train") -> tuple[Any, Tensor | None]:
    """Images, checked and on the model's device, and labels, of one batch that a loader gives."""
    images = placed(first_images(item), model)
    labels = None
    if not len(images):
        raise ArgumentError(f"{name} has a batch without images")
    if isinstance(images, list):
        return images, None
    if isinstance(item, (tuple, list)) and len(item) > 1:
        labels = item[1]
    elif isinstance(item, dict):
        labels = next((item[key] for key in ("labels", "label") if key in item), None)
    if labels is None:
        return images, None
    labels = _tensor_of_labels(labels, name).to(images.device)
    if labels.dim() == 0 or len(labels) != len(images):
        raise ArgumentError(f"{name} has a batch of {len(images)} images whose labels have shape {tuple(labels.shape)}")
    return images, labels


def _tensor_of_labels(labels: Any, name: str) -> Tensor:
    try:
        if isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], Tensor):
            return torch.stack(list(labels))
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"{name} has labels that make no tensor ({type(labels).__name__}): give one, or a task= whose split() reads them"
        ) from error


def shared_out(source: Source, seed: int, training: bool) -> Iterable[Any]:
    """The batches of this process: in training its part of each batch, else its batches, none twice."""
    from accelerate.data_loader import prepare_data_loader

    state = process_state()
    loader = source.batches
    if not isinstance(loader, DataLoader):
        return _EveryNth(loader, state.num_processes, state.process_index)
    if state.num_processes == 1 and loader.batch_size is None and not hasattr(loader.batch_sampler, "batch_size"):
        return loader  # with batches of its own making, which accelerate does not take
    try:
        return prepare_data_loader(
            loader, num_processes=state.num_processes, process_index=state.process_index,
            split_batches=training, even_batches=training, put_on_device=False, use_seedable_sampler=True, data_seed=seed,
        )  # fmt: skip
    except ValueError as error:
        reason = str(error).partition(". ")[0]
        raise ArgumentError(f"{source.name} can't be shared out among {state.num_processes} processes: {reason}") from error


class _EveryNth:
    """For iterables that nobody can look into: each process takes every n-th batch."""

    def __init__(self, batches: Iterable[Any], processes: int, index: int):
        self.batches, self.processes, self.index = batches, processes, index

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.batches):
            if number % self.processes == self.index:
                yield batch

"""One batch of any loader: its images, its labels, and the images where the model is."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArgumentError, ArgumentTypeError
from .arrays import tensor_of

Images = Tensor | list[Tensor]  # (N, C, H, W), or one (C, H, W) for each image of a detector's batch

IMAGE_KEYS = ("pixel_values", "image", "images", "img")  # of batches that are dicts


def split_batch(item: object, model: nn.Module, name: str = "train") -> tuple[Images, Tensor | None]:
    """The images of one batch that a loader gives, checked and on the model's device, and its labels, if it has any.

    Args:
        item: as the loader gives it: images, or a tuple, list or dict that has them.
        model: whose device and type the images get.
        name: of the argument that the loader came from, for errors.

    Raises:
        ArgumentError, ArgumentTypeError: images or labels that can't be used.
    """
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


def _tensor_of_labels(labels: object, name: str) -> Tensor:
    try:
        if isinstance(labels, (list, tuple)) and labels and isinstance(labels[0], Tensor):
            return torch.stack(list(labels))
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"{name} has labels that make no tensor ({type(labels).__name__}): give one, or a task= whose split() reads them"
        ) from error


def first_images(item: object) -> Images:
    """The images of a batch that a loader gives: (N, C, H, W), or a list of (C, H, W) for a detector.

    Args:
        item: images, as a tensor or array; a dict that has them; or a tuple or list that begins with them.

    Raises:
        ArgumentError, ArgumentTypeError: there are none.
    """
    if isinstance(item, np.ndarray):
        item = tensor_of(item)
    if isinstance(item, dict):
        values = [item[key] for key in IMAGE_KEYS if key in item]
        if not values:
            raise ArgumentError(f"a batch of images is a dict without 'image' or 'pixel_values': {', '.join(map(str, item))}")
        return first_images(values[0])
    if isinstance(item, (tuple, list)) and len(item):
        first = tensor_of(item[0]) if isinstance(item[0], np.ndarray) else item[0]
        if isinstance(first, (tuple, list)):  # (images, targets) of a detector
            return _listed_images(first)
        if isinstance(first, Tensor) and first.dim() == 3 and all(isinstance(t, Tensor) and t.dim() == 3 for t in item):
            return list(item)
        item = first
    if not isinstance(item, Tensor):
        raise ArgumentTypeError(f"a batch of images must be a tensor, not {type(item).__name__}")
    if item.dim() < 3:
        raise ArgumentError(
            f"a batch of images must have shape (N, C, H, W), not {tuple(item.shape)}; give batches, not single images"
        )
    return item


def _listed_images(images: Sequence[object]) -> list[Tensor]:
    tensors = [tensor_of(image) if isinstance(image, np.ndarray) else image for image in images]
    if not tensors:
        raise ArgumentError("a batch of images is an empty list")
    if strange := [type(image).__name__ for image in tensors if not isinstance(image, Tensor)]:
        raise ArgumentTypeError(f"a list of images must hold tensors (C, H, W), not {strange[0]}")
    return cast(list[Tensor], tensors)


def placed(batch: Images, model: nn.Module) -> Images:
    """Images on the model's device and of its type.

    Args:
        batch: a tensor, or a list of tensors.
        model: the network that takes them.

    Raises:
        ArgumentError: the images are not of a floating-point type, or not finite.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return [_placed(image, like) for image in batch] if isinstance(batch, list) else _placed(batch, like)


def _placed(batch: Tensor, like: Tensor) -> Tensor:
    if not batch.is_floating_point():
        kind = str(batch.dtype).removeprefix("torch.")
        raise ArgumentError(f"images are {kind}: give floating-point pixels, preprocessed as the model was trained")
    if not bool(torch.isfinite(batch).all()):
        raise ArgumentError("images have NaN or infinite pixels")
    images = batch.to(like)
    return images.clone() if images.is_inference() else images

"""Calibration images from whatever a user has: a tensor, an array, batches of any loader, a folder of pictures."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.calls import Arguments
from ..errors import ArgumentError, ArgumentTypeError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def as_calls(images: Any, model: nn.Module, max_images: int | None, batch_size: int) -> Iterator[Arguments]:
    """The arguments of a forward pass for each batch, on the model's device and of its type.

    Args:
        images: a tensor or array (N, C, H, W); an iterable of batches, such as a DataLoader, each a tensor, or a tuple or
            list that begins with one (what follows are labels, and is not used), or a list of (C, H, W) tensors for a
            detector; or the path of a folder of pictures, which get the model's own evaluation transform, or of a .npy file.
        max_images: stop after this many.

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


def _batches(images: Any, model: nn.Module, batch_size: int, max_images: int | None = None) -> Iterator[Any]:
    if isinstance(images, (str, Path)):
        yield from _folder(Path(images), model, batch_size, max_images)
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


def tensor_of(images: Any) -> Tensor:
    """A tensor or an array as a tensor."""
    try:
        made = torch.as_tensor(images)
    except TypeError as error:
        raise ArgumentTypeError(f"images is an array of {images.dtype}: give floating-point pixels") from error
    if made.layout != torch.strided or made.is_meta:
        raise ArgumentError("images is a sparse or a meta tensor: give one with all its pixels")
    return made


def first_images(item: Any) -> Any:
    """The images of a batch that a loader gives."""
    if isinstance(item, np.ndarray):
        item = tensor_of(item)
    if isinstance(item, dict):
        found = [item[key] for key in ("pixel_values", "image", "images", "img") if key in item]
        if not found:
            raise ArgumentError(f"a batch of images is a dict without 'image' or 'pixel_values': {', '.join(map(str, item))}")
        return first_images(found[0])
    if isinstance(item, (tuple, list)) and len(item):
        first = tensor_of(item[0]) if isinstance(item[0], np.ndarray) else item[0]
        if isinstance(first, (tuple, list)):  # (images, targets) of a detector
            found = [tensor_of(image) if isinstance(image, np.ndarray) else image for image in first]
            if not found:
                raise ArgumentError("a batch of images is an empty list")
            if strange := [type(image).__name__ for image in found if not isinstance(image, Tensor)]:
                raise ArgumentTypeError(f"a list of images must hold tensors (C, H, W), not {strange[0]}")
            return found
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


def placed(batch: Any, model: nn.Module) -> Any:
    """Images on the model's device and of its type, once they are found to be finite pixels."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    if isinstance(batch, list):
        return [placed(image, model) for image in batch]
    if not batch.is_floating_point():
        kind = str(batch.dtype).removeprefix("torch.")
        raise ArgumentError(f"images are {kind}: give floating-point pixels, preprocessed as the model was trained")
    if not bool(torch.isfinite(batch).all()):
        raise ArgumentError("images have NaN or infinite pixels")
    made = batch.to(like)
    return made.clone() if made.is_inference() else made


def _folder(path: Path, model: nn.Module, batch_size: int, max_images: int | None) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    if path.suffix == ".npy" and path.is_file():
        stored = read_npy(path, "images")
        for start in range(0, len(stored), batch_size):
            yield from _batches(np.array(stored[start : start + batch_size]), model, batch_size)
        return
    if not path.is_dir():
        raise ArgumentError(f"images {str(path)!r} is neither a folder nor a .npy file")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ArgumentError(f"images {str(path)!r} is a folder without pictures ({', '.join(sorted(SUFFIXES))})")
    if max_images is not None and len(files) > max_images:  # some of every class, where classes have folders
        files = [files[i * len(files) // max_images] for i in range(max_images)]
    transform, alike = _transform(model)
    step = batch_size if alike else 2
    for start in range(0, len(files), step):
        pictures = []
        for file in files[start : start + step]:
            try:
                with Image.open(file) as opened:
                    pictures.append(transform(opened.convert("RGB")))
            except (UnidentifiedImageError, OSError) as error:
                raise ArgumentError(f"images has a file that is no picture: {file.name} ({error})") from error
        yield torch.stack(pictures) if alike else pictures


def read_npy(path: Path, name: str) -> np.ndarray:
    """The array in a file, which stays there until it is used."""
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError as error:
        raise ArgumentError(f"{name} {str(path)!r} does not exist") from error
    except (ValueError, EOFError) as error:
        raise ArgumentError(f"{name} {str(path)!r} can't be read: it is no .npy file of numbers") from error


def _transform(model: nn.Module) -> tuple[Any, bool]:
    """How pictures become the model's input, and whether all then have one size."""
    from torchvision.transforms import v2

    origin = type(model).__module__
    if getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None):
        import timm.data

        return timm.data.create_transform(**timm.data.resolve_data_config({}, model=model)), True
    if not origin.startswith("torchvision.models"):
        raise ArgumentError(
            "images is a folder, and only models of timm and torchvision say how pictures become input: "
            "give tensors or a .npy file"
        )
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if ".detection" in origin:
        return v2.Compose(tensor), False
    normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    if ".segmentation" in origin:
        return v2.Compose([v2.Resize((520, 520)), *tensor, normalize]), True
    side = 299 if origin.endswith("inception") else getattr(model, "image_size", 224)
    return v2.Compose([v2.Resize(round(side * 256 / 224)), v2.CenterCrop(side), *tensor, normalize]), True


def peek(calls: Iterator[Arguments]) -> tuple[Arguments, Iterator[Arguments]]:
    """The first batch, and all batches."""
    first = next(calls)
    return first, itertools.chain([first], calls)

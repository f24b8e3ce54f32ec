"""Batches of pictures from a folder, for calibration and measurements."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from .batches import Images

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def picture_batches(path: Path, model: nn.Module, batch_size: int, max_images: int | None) -> Iterator[Images]:
    """The pictures in a folder and below, in the order of their names, as the model takes them in evaluation.

    Args:
        path: of the folder.
        model: a network of timm or torchvision, whose evaluation transform pictures get.
        batch_size: pictures at a time; two at a time where they differ in size, as for detectors, in a list.
        max_images: where there are more, so many of them at even distances are taken; None for all.

    Raises:
        ArgumentError: no folder, no picture, a file that is none, or a model that does not say how pictures become input.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_dir():
        raise ArgumentError(f"images {str(path)!r} is neither a folder nor a .npy file")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ArgumentError(f"images {str(path)!r} is a folder without pictures ({', '.join(sorted(SUFFIXES))})")
    if max_images is not None and len(files) > max_images:  # some of every class, where classes have folders
        files = [files[i * len(files) // max_images] for i in range(max_images)]
    transform, alike = _evaluation_transform(model)
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


def _evaluation_transform(model: nn.Module) -> tuple[Callable[[object], Tensor], bool]:
    """How pictures become the model's input, and whether all then have one size.

    Raises:
        ArgumentError: the model is neither timm's nor torchvision's.
    """
    from torchvision.transforms import v2

    origin = type(model).__module__
    if getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None):
        import timm.data

        return timm.data.create_transform(**timm.data.resolve_data_config({}, model=model)), True
    if not origin.startswith("torchvision.models"):
        raise ArgumentError(
            "images is a folder, and only models of timm and torchvision say how pictures become input: "
            "give tensors, or a .npy file of what the model takes"
        )
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if ".detection" in origin:
        return v2.Compose(tensor), False
    normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    if ".segmentation" in origin:
        return v2.Compose([v2.Resize((520, 520)), *tensor, normalize]), True
    side = 299 if origin.endswith("inception") else getattr(model, "image_size", 224)
    return v2.Compose([v2.Resize(round(side * 256 / 224)), v2.CenterCrop(side), *tensor, normalize]), True

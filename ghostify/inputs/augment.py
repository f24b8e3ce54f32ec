"""Mirrored and shifted copies of images."""

import torch
from torch import Tensor, nn

from ..common.calls import Arguments


def copied(call: Arguments, number: int, generator: torch.Generator) -> Arguments | None:
    """A batch of images again, as if the pictures had been taken a little differently: mirrored (the first copy), then
    shifted by up to an eighth too, a random half of them mirrored. None where it is not one tensor (N, C, H, W)."""
    (images, *others), kwargs = call
    if others or kwargs or not isinstance(images, Tensor) or images.dim() != 4:
        return None
    flip = torch.ones(len(images), dtype=torch.bool)
    if number > 0:
        flip = torch.rand(len(images), generator=generator) < 0.5
    made = torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)
    if number > 0:
        made = torch.stack([_shifted(image, generator) for image in made])
    return (made,), {}


def _shifted(image: Tensor, generator: torch.Generator) -> Tensor:
    height, width = image.shape[1:]
    y, x = height // 8, width // 8
    top, left = (int(torch.randint(2 * most + 1, (1,), generator=generator)) for most in (y, x))
    padded = nn.functional.pad(image[None], (x, x, y, y), mode="reflect")[0]
    return padded[:, top : top + height, left : left + width]


def mirrored_and_shifted(images: Tensor) -> Tensor:
    """A random half mirrored, each shifted by up to an eighth of its size and reflected at the border."""
    if images.dim() != 4:
        return images
    n, _, height, width = images.shape
    y, x = height // 8, width // 8
    padded = nn.functional.pad(images, (x, x, y, y), mode="reflect")
    top, left = (torch.randint(2 * most + 1, (n, 1)) for most in (y, x))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    index = [i.to(images.device) for i in (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])]
    return padded.movedim(1, 3)[index[0], index[1], index[2]].movedim(3, 1).contiguous()

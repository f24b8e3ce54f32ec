"""Mirrored and shifted copies of images."""

import torch
from torch import Tensor, nn

from ..common.calls import Arguments


def copied(call: Arguments, number: int, generator: torch.Generator) -> Arguments | None:
    """A batch of images again, as if the pictures had been taken a little differently.

    Args:
        call: the arguments of a forward pass.
        number: of the copy; copy 0 is mirrored, in the others a random half is mirrored and each is shifted by up to an eighth.
        generator: which all draws come from.

    Returns:
        The arguments of a forward pass with the copy; None where they are not one tensor (N, C, H, W).
    """
    (images, *others), kwargs = call
    if others or kwargs or not isinstance(images, Tensor) or images.dim() != 4:
        return None
    if number == 0:
        return (images.flip(-1),), {}
    y, x = _most_shift(images)
    is_mirrored = torch.rand(len(images), 1, generator=generator) < 0.5
    shifts = [[int(torch.randint(2 * most + 1, (1,), generator=generator)) for most in (y, x)] for _ in images]
    top, left = torch.tensor(shifts).split(1, dim=1)
    # these draws shift what was mirrored before
    copies = _mirrored_and_shifted(images, is_mirrored, top, torch.where(is_mirrored, 2 * x - left, left))
    # with the strides of a new tensor, which tell convolutions how to go about images of one channel
    return (copies.clone(memory_format=torch.contiguous_format),), {}


def mirrored_and_shifted(images: Tensor) -> Tensor:
    """A random half mirrored, each shifted by up to an eighth of its size and reflected at the border.

    Args:
        images: (N, C, H, W); anything else is returned as it is.
    """
    if images.dim() != 4:
        return images
    top, left = (torch.randint(2 * most + 1, (len(images), 1)) for most in _most_shift(images))
    return _mirrored_and_shifted(images, torch.rand(len(images), 1) < 0.5, top, left)


def _most_shift(images: Tensor) -> tuple[int, int]:
    """The most pixels that images are shifted by, up or down and to the left or the right."""
    return images.shape[2] // 8, images.shape[3] // 8


def _mirrored_and_shifted(images: Tensor, is_mirrored: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Parts of the images, padded by reflection.

    Args:
        images: (N, C, H, W).
        is_mirrored: (N, 1), whether the part is mirrored.
        top, left: (N, 1), where the part begins in the padded image.
    """
    n, _, height, width = images.shape
    y, x = _most_shift(images)
    padded = nn.functional.pad(images, (x, x, y, y), mode="reflect")
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    columns = torch.where(is_mirrored, columns.flip(1), columns)
    index = [i.to(images.device) for i in (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])]
    return padded.movedim(1, 3)[index[0], index[1], index[2]].movedim(3, 1).contiguous()

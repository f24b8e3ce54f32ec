"""The images of a compression: those that choose and calibrate, and those that judge."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..common.calls import PositionalArguments
from ..common.spill import SpilledList
from ..errors import ArgumentError
from ..inputs.batches import Images
from ..inputs.images import ImageData, as_calls
from ..inputs.sources import LabelledData, make_source

HELD_OUT = 4096  # images beyond those that calibrate are read at most, to judge by where there is no val

BATCH = 32  # images at a time

MEMORY = 512 << 20  # bytes of images held; what is above goes to a temporary folder


class SomeImages:
    """Some of the images that are held, in batches that can be gone through again and again.

    Args:
        held: single images (C, H, W).
        positions: of those that are meant.
        batch_size: images at a time.
        listed: whether a batch is a list of images, as detectors take them, and no tensor.
    """

    def __init__(self, held: SpilledList[Tensor], positions: Sequence[int], batch_size: int, listed: bool):
        self.held, self.positions, self.batch_size, self.listed = held, positions, batch_size, listed

    def __len__(self) -> int:
        """The number of images."""
        return len(self.positions)

    def __iter__(self) -> Iterator[Images]:
        for start in range(0, len(self.positions), self.batch_size):
            images = [self.held[position] for position in self.positions[start : start + self.batch_size]]
            yield images if self.listed else torch.stack(images)

    @property
    def example(self) -> PositionalArguments:
        """The arguments of a forward pass of one image."""
        image = self.held[self.positions[0]]
        return ([image],) if self.listed else (image[None],)


def hold_images(images: ImageData, model: nn.Module, most: int) -> tuple[SpilledList[Tensor], int, bool]:
    """Images as a user gives them, read and checked; how many are taken at a time; and whether they come in lists.

    Args:
        images: as for :func:`ghostify.calibrate`.
        model: the network that takes them.
        most: images beyond this many are not read.

    Raises:
        ArgumentError, ArgumentTypeError: images that can't be used.
    """
    held: SpilledList[Tensor] = SpilledList(memory=MEMORY)
    batch_size, listed = BATCH, False
    for position, ((batch,), _) in enumerate(as_calls(images, model, most, BATCH)):
        listed = isinstance(batch, list)
        batch_size = len(batch) if listed and not position else batch_size
        for image in batch:
            held.append(image.to("cpu", copy=True))  # a slice would keep the whole batch
    shapes = {tuple(image.shape) for image in held}
    if not listed and len(shapes) > 1:
        raise ArgumentError(f"images have {len(shapes)} different shapes, {min(shapes)} among them: give all in one size")
    return held, batch_size, listed


def parted(count: int, most: int, seed: int) -> tuple[list[int], list[int]]:
    """Positions of images that calibrate, at most half of them, and of those that judge; by chance.

    Args:
        count: of all images.
        most: that calibrate.
        seed: of the choice.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    calibrating = min(most, count // 2)
    return sorted(order[:calibrating]), sorted(order[calibrating:])


def hold_labelled(val: LabelledData, model: nn.Module) -> SpilledList[Any]:
    """The batches that judge, as they are given.

    Raises:
        ArgumentError, ArgumentTypeError: nothing in them, or nothing that can be used.
    """
    source = make_source(val, model, BATCH, training=False, name="val", broken="fail", once=True)
    return SpilledList(source.batches, MEMORY)


def digests(images: Images) -> list[bytes]:
    """A digest of each image."""
    return [hashlib.blake2b(image.detach().cpu().contiguous().numpy().tobytes(), digest_size=8).digest() for image in images]

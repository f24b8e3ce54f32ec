"""Copies of few images, mirrored and shifted, so that regressions and gradient steps see more of them."""

import torch
from torch import Tensor

from ..common.calls import Arguments, PositionalArguments
from ..common.spill import SpilledList
from ..inputs.augment import copied

VIEWS = 1024  # images and copies of them, beyond which none are made unless asked for


def default_copies(images: int, most: int) -> int:
    """How many copies of each image a method gains from, of which more than ``most`` would not pay."""
    return max(0, min(most, VIEWS // images - 1))


def add_copies(calls: SpilledList[Arguments], copies: int, seed: int) -> bool:
    """Append copies of every batch; False where a batch is not one tensor (N, C, H, W), which can't be copied."""
    generator = torch.Generator().manual_seed(seed)
    batches = len(calls)
    for number in range(copies):
        for index in range(batches):
            batch = copied(calls[index], number, generator)
            if batch is None:
                return False
            calls.append(batch)
    return True


def images_in(args: PositionalArguments) -> int:
    """Images in a batch, given the positional arguments of its forward pass."""
    return len(args[0]) if args and isinstance(args[0], (Tensor, list)) else 1

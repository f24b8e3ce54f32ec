"""At which positions of maps regressions look: all of them, or a sample that bounds the work of wide layers."""

import math

import torch
from torch import Tensor

WORK = 5e10  # multiply-adds that the normal equations of one layer may take
MOST = 65536  # positions of all images together that are enough for any layer


def position_budget(unknowns: int) -> int:
    """Positions of all images together that a regression on so many unknowns uses."""
    return int(max(8 * unknowns, min(WORK / unknowns**2, MOST)))


def sample_positions(total: int, budget: int, images: int, seed: int, index: int, device: torch.device) -> Tensor | None:
    """Positions to take of each image of a batch, in increasing order; None for all.

    Args:
        total: positions of one image.
        budget: positions of all images together.
        images: of all batches together.
        seed: of the sample.
        index: of the batch; each has a sample of its own.
        device: of the result.
    """
    wanted = math.ceil(budget / max(1, images))
    if wanted >= total:
        return None
    generator = torch.Generator().manual_seed(seed * 7919 + index)
    return torch.randperm(total, generator=generator)[:wanted].sort().values.to(device)

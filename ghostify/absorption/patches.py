"""Which input values a convolution multiplies at each output position: the design matrix of its least-squares problem."""

import math

import torch
from torch import Tensor, nn

from ..layers.convolution import Convolution, as_convolution
from ..layers.tap_index import tap_index


class Taps:
    """Input patches of a convolution of any class whose output is linear in its ``weight``.

    Args:
        conv: a convolution of any class; it is not changed.

    Attributes:
        size: numbers in one channel of its kernel.
    """

    def __init__(self, conv: Convolution):
        self.conv = conv
        self.size = math.prod(conv.kernel_size)
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def index(self, spatial: tuple[int, ...]) -> Tensor:
        """(output positions, taps) of positions in the flattened input; the number of positions itself stands for zero.

        Raises:
            ValueError: the layer does more than multiply patches by its weight.
        """
        if spatial not in self._indices:
            self._indices[spatial] = tap_index(self.conv, spatial)
        return self._indices[spatial]

    def gather(self, maps: Tensor, positions: Tensor | None) -> Tensor:
        """Patches at some output positions (all if None).

        Args:
            maps: (N, C, *spatial).
            positions: (P,).

        Returns:
            (N, P, C, taps).
        """
        index = self.index(tuple(maps.shape[2:]))
        index = index if positions is None else index[positions]
        flat = maps.flatten(2)
        if self.size == 1 and positions is None and len(index) == flat.shape[2]:
            return flat.mT.unsqueeze(-1)
        flat = torch.nn.functional.pad(flat, (0, 1)).transpose(1, 2)  # a zero behind the last position
        return flat[:, index].movedim(3, 2)


def conv_in(part: nn.Sequential) -> Convolution:
    """The convolution that one of the two parts of a Ghost module begins with, of any registered class."""
    return as_convolution(part[0])


def at_positions(maps: Tensor, positions: Tensor | None) -> Tensor:
    """(N, C, *spatial) to (N * P, C), the values at these positions."""
    flat = maps.flatten(2)
    flat = flat if positions is None else flat[:, :, positions]
    return flat.transpose(1, 2).flatten(0, 1)

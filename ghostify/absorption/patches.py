"""Which input values a convolution multiplies at each output position: the design matrix of its least-squares problem."""

import copy
import math

import torch
from torch import Tensor, nn

from ..layers.convolution import Convolution, as_convolution, output_dim


class Taps:
    """Input patches of a convolution of any class whose output is linear in its ``weight``.

    The geometry (stride, padding and its mode, dilation, what a subclass does on top) is not read off the attributes: a map of
    position numbers is sent through a copy with one-hot kernels.

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
            self._indices[spatial] = self._probe(spatial)
        return self._indices[spatial]

    def _probe(self, spatial: tuple[int, ...]) -> Tensor:
        """The index for maps of this size, read off a copy that has a one-hot kernel for each tap."""
        weight = self.conv.weight
        kernel = torch.eye(self.size, dtype=torch.float64, device=weight.device).view(self.size, 1, *weight.shape[2:])
        kernel = kernel.transpose(0, output_dim(self.conv))
        probe = copy.deepcopy(self.conv, {id(weight): nn.Parameter(kernel, requires_grad=False)})
        if getattr(probe, "bias", None) is not None:
            probe.bias = None
        probe.groups = probe.in_channels = 1
        probe.out_channels = self.size
        total = math.prod(spatial)
        numbers = torch.arange(1, total + 1, dtype=torch.float64, device=weight.device).view(1, 1, *spatial)
        try:
            with torch.no_grad():
                seen = probe(numbers)[0].flatten(1).T
        except (RuntimeError, ValueError) as error:  # the layer runs code that a kernel of this shape does not suit
            raise ValueError("its kernel is more than its weight") from error
        index = seen.round().long() - 1
        if not torch.equal(seen, (index + 1).to(seen)):
            raise ValueError("its kernel is more than its weight")
        return index.masked_fill(index < 0, total)

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

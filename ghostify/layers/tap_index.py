"""Which input values a convolution multiplies at each output position, found out by sending position numbers through it."""

import copy
import math

import torch
from torch import Tensor, nn

from .convolution import Convolution, output_dim

MORE = "its kernel is more than its weight"


def tap_index(conv: Convolution, spatial: tuple[int, ...]) -> Tensor:
    """The positions of maps that each tap of a convolution reads.

    The geometry (stride, padding and its mode, dilation, what a subclass does on top) is not read off the attributes: a map of
    position numbers is sent through a copy with one-hot kernels.

    Args:
        conv: a convolution of any class whose output is linear in its ``weight``; it is not changed.
        spatial: the size of the maps.

    Returns:
        (output positions, taps) of positions in the flattened maps; the number of positions itself stands for zero.

    Raises:
        ValueError: the layer does more than multiply patches by its weight.
    """
    total, size = math.prod(spatial), math.prod(conv.kernel_size)
    numbers = torch.arange(1, total + 1, dtype=torch.float64, device=conv.weight.device).view(1, 1, *spatial)
    seen = _through_taps(conv, numbers, torch.ones(size))
    index = seen.round().long() - 1
    if not torch.equal(seen, (index + 1).to(seen)) or (index.numel() and int(index.max()) >= total):
        raise ValueError(MORE)
    return index.masked_fill(index < 0, total)


def multiplies_patches(conv: Convolution) -> bool:
    """Whether a convolution of a class with code of its own gives patches times its weight, and its bias, and nothing else."""
    tensors = [*conv.named_parameters(), *conv.named_buffers()]
    if {name for name, _ in tensors} - {"weight", "bias"} or not isinstance(getattr(conv, "bias", None), Tensor | None):
        return False
    spatial = tuple(2 * d * (k - 1) + 3 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    signs = torch.linspace(-1, 1, 2 * math.prod(spatial), dtype=torch.float64)[::2]  # of no scale that a layer may know
    numbers = (signs + 0.3 / len(signs)).to(conv.weight.device).view(1, 1, *spatial)
    factors = torch.linspace(-0.7, 0.9, math.prod(conv.kernel_size), dtype=torch.float64)
    try:
        index = tap_index(conv, spatial)
        seen = _through_taps(conv, numbers, factors)
    except ValueError:
        return False
    values = torch.cat([numbers.flatten(), numbers.new_zeros(1)])
    return torch.allclose(seen, values[index] * factors.to(values), atol=1e-12)


def _through_taps(conv: Convolution, maps: Tensor, factors: Tensor) -> Tensor:
    """(output positions, taps) what a copy of a convolution gives whose kernels have one number that is not zero, a factor."""
    weight, size = conv.weight, len(factors)
    kernel = torch.diag(factors).to(maps).view(size, 1, *weight.shape[2:]).transpose(0, output_dim(conv))
    probe = copy.deepcopy(conv, {id(weight): nn.Parameter(kernel, requires_grad=False)}).eval()
    if getattr(probe, "bias", None) is not None:
        probe.bias = None
    probe.groups = probe.in_channels = 1
    probe.out_channels = size
    try:
        with torch.no_grad():
            return probe(maps)[0].flatten(1).T
    except (RuntimeError, ValueError) as error:  # the layer runs code that a kernel of this shape does not suit
        raise ValueError(MORE) from error

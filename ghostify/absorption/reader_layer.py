"""A layer that reads maps, as the linear function of its input patches that it is."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..graph.spans import SpanUse
from ..layers.convolution import as_convolution, as_weighted, filters_of, output_dim
from .patches import Taps

AT_ONCE = 1 << 24  # numbers of patches that are gathered in one go


class ReaderLayer:
    """A convolution or fully connected layer, in groups G that each read C maps through T taps and give K outputs.

    The taps of a convolution are the numbers of one channel of its kernel, those of a fully connected layer on flattened maps
    the places of a map, and 1 of any other.

    Args:
        layer: a convolution without more than its weight, or a fully connected layer.
        uses: the spans that it reads.

    Attributes:
        layer: as above.
        groups, maps, taps, outputs: G, C, T and K.
    """

    def __init__(self, layer: nn.Module, uses: list[SpanUse]):
        self.layer = as_weighted(layer)
        if isinstance(layer, nn.Linear):
            self.groups, self.taps = 1, uses[0].width
            self.maps, self.outputs = layer.in_features // self.taps, layer.out_features
            self._patches = None
        else:
            conv = as_convolution(layer)
            self.groups, self.taps = conv.groups, math.prod(conv.kernel_size)
            self.maps, self.outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
            self._patches = Taps(conv)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer."""
        bias = getattr(self.layer, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    def weight(self) -> Tensor:
        """(G, C, T, K) of the layer, in its own type."""
        return filters_of(self.layer).reshape(self.groups, self.outputs, self.maps, self.taps).permute(0, 2, 3, 1)

    def as_weight(self, filters: Tensor) -> Tensor:
        """(G, some of C, T, K) in the shape of the layer's weight, and of its type."""
        weight = self.layer.weight
        rows = filters.permute(0, 3, 1, 2).flatten(0, 1).to(weight.dtype)  # (G * K, some of C, T)
        if weight.dim() == 2:
            return rows.flatten(1)
        return rows.reshape(*rows.shape[:2], *weight.shape[2:]).transpose(0, output_dim(self.layer))

    def places(self, inputs: Tensor) -> int:
        """Positions of one image at which the layer gives its outputs."""
        if self._patches is not None:
            return len(self._patches.index(tuple(inputs.shape[2:])))
        return math.prod(inputs.shape[1:-1])

    def patches(self, inputs: Tensor, positions: Tensor | None) -> Iterator[Tensor]:
        """What the layer multiplies at some positions (all if None) of some images after the other: (P, G, C, T)."""
        taken = self.places(inputs) if positions is None else len(positions)
        images = max(1, AT_ONCE // max(1, taken * self.groups * self.maps * self.taps))
        for few in inputs.split(images):
            if few.dtype != torch.float64:
                few = few.float()
            if self._patches is not None:
                gathered = self._patches.gather(few, positions)
            else:
                rows = few.reshape(len(few), -1, few.shape[-1])
                gathered = (rows if positions is None else rows[:, positions]).unflatten(2, (-1, self.taps))
            yield gathered.flatten(0, 1).unflatten(1, (self.groups, self.maps))

    def map_index(self, use: SpanUse, channels: int) -> Tensor:
        """(channels,) which of the layer's G * C maps the channels of a span are."""
        return use.offset // use.width + torch.arange(channels)

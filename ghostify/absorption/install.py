"""Narrowed layers whose readers have absorbed the maps that went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.copying import copy_layer
from ..layers.convolution import as_weighted, output_dim
from ..surgery.narrowing import NarrowedSpan, narrowed_layers


@dataclass(frozen=True)
class AbsorbedReader:
    """What a layer becomes that reads the maps that stay.

    Attributes:
        weight: the layer's weight without the dropped input channels, of its type and on its device, all output channels.
        shift: (outputs,) to be added to the layer's outputs, float64; None where neither the layer nor a norm can take it.
        norm: qualified name of the norm that takes the shift, where the layer has no bias.
    """

    weight: Tensor
    shift: Tensor | None = None
    norm: str | None = None


def absorb(
    modules: Mapping[str, nn.Module], narrowed: Sequence[NarrowedSpan], readers: Mapping[str, AbsorbedReader]
) -> dict[str, nn.Module]:
    """The layers that take the places of those around narrowed spans, by their names; nothing is changed.

    They are those of :func:`ghostify.surgery.narrowing.narrowed_layers`, with absorbed filters in the readers. What the mean
    output of a reader loses goes into its bias, or into the running mean of the norm behind it, so such norms are among the
    layers, too. A reader that makes another span has absorbed filters for the channels of that span that stay.

    Args:
        modules: of the original, by their qualified names.
        narrowed: the spans of which channels go.
        readers: what becomes of each layer that reads one of them.
    """
    layers = narrowed_layers(modules, narrowed)
    outputs = {maker: one.kept for one in narrowed for maker in one.span.makers}
    for name, reader in readers.items():
        kept = outputs.get(name)
        layer = as_weighted(layers[name])
        _set(layer, "weight", _kept(reader.weight, kept, output_dim(layer)))
        if reader.shift is None:
            continue
        shift = _kept(reader.shift, kept)
        if layer.bias is not None:
            _set(layer, "bias", layer.bias.double() + shift)
        elif reader.norm is not None:
            norm = layers[reader.norm] = copy_layer(layers.get(reader.norm, modules[reader.norm]))
            _set(norm, "running_mean", torch.as_tensor(norm.running_mean).double() - shift)
    return layers


def _set(layer: nn.Module, name: str, values: Tensor) -> None:
    """Give a layer other values of a tensor, in the type, the layout and with the flags of what it has."""
    old = getattr(layer, name)
    new = torch.empty_like(old).copy_(values)
    setattr(layer, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _kept(values: Tensor, kept: Tensor | None, dim: int = 0) -> Tensor:
    return values if kept is None else values.index_select(dim, kept.to(values.device))

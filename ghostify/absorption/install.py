"""Narrowed layers whose readers have absorbed the maps that went."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..common.copying import copy_layer
from ..layers.convolution import as_weighted
from ..surgery.narrowing import NarrowedSpan, narrowed_layers
from .survey import Survey


def absorb(modules: Mapping[str, nn.Module], survey: Survey) -> dict[str, nn.Module]:
    """The layers that take the places of those around the spans of a survey, by their names; nothing is changed.

    They are those of :func:`ghostify.surgery.narrowing.narrowed_layers`, with absorbed filters in the readers. What the mean
    output of a reader loses goes into its bias, or into the running mean of the norm behind it, so such norms are among the
    layers, too. A reader that makes another span has absorbed filters for the channels of that span that stay.

    Args:
        modules: of the original, by their qualified names.
        survey: of its spans, with counts; spans of which all channels stay are left alone.
    """
    narrowed = [
        NarrowedSpan(one.span, one.kept)
        for one in survey.spans.values()
        if one.kept is not None and len(one.kept) < one.span.channels
    ]
    layers = narrowed_layers(modules, narrowed)
    outputs = {maker: one.kept for one in narrowed for maker in one.span.makers}
    for name, reader in survey.readers.items():
        kept = outputs.get(name)
        layer = as_weighted(layers[name])
        _set(layer, "weight", _rows(reader.weight, kept))
        if reader.shift is None:
            continue
        shift = _rows(reader.shift, kept)
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


def _rows(values: Tensor, kept: Tensor | None) -> Tensor:
    return values if kept is None else values[kept.to(values.device)]

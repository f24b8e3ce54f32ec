"""Narrow the layers around spans: makers give fewer channels, carriers carry fewer, readers lose the columns of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.copying import copy_layer
from ..errors import ArgumentError
from ..graph.spans import Span
from ..layers.convolution import Convolution
from ..layers.layer_classes import narrow, take


@dataclass(frozen=True)
class NarrowedSpan:
    """A span and the channels of it that stay.

    Attributes:
        span: a free span.
        kept: (m,) channels in increasing order; equally many of each of the span's groups.
    """

    span: Span
    kept: Tensor

    def __post_init__(self) -> None:
        span, kept = self.span, self.kept
        if span.reason:
            raise ArgumentError(f"the span of {span.makers[0]!r} can't be narrowed: {span.reason}")
        runs = torch.bincount(kept * span.groups // span.channels, minlength=span.groups)
        if not len(kept) or not bool((kept[1:] > kept[:-1]).all()) or kept[0] < 0 or kept[-1] >= span.channels:
            raise ArgumentError(f"the span of {span.makers[0]!r} must keep some of its {span.channels} channels, in order")
        if not bool((runs == runs[0]).all()):
            raise ArgumentError(f"the span of {span.makers[0]!r} must keep equally many channels of its {span.groups} groups")

    def gone(self) -> Tensor:
        """(n - m,) channels that do not stay."""
        return _others(self.span.channels, self.kept)


def narrowed_layers(modules: Mapping[str, nn.Module], narrowed: Sequence[NarrowedSpan]) -> dict[str, nn.Module]:
    """The layers that take the places of those around some spans, by their targets; nothing is changed.

    With the columns of the dropped channels set to zero in the readers, the original network computes the same.

    Args:
        modules: the modules of the graph that the spans were found in, by their targets.
        narrowed: the spans, each with the channels that stay.
    """
    outputs: dict[str, Tensor] = {}
    dropped: dict[str, list[Tensor]] = {}
    carried: dict[str, list[Tensor]] = {}
    for one in narrowed:
        outputs.update(dict.fromkeys(one.span.makers, one.kept))
        gone = one.gone()
        for use in one.span.readers:
            columns = use.offset + gone[:, None] * use.width + torch.arange(use.width)
            dropped.setdefault(use.target, []).append(columns.flatten())
        for use in one.span.carriers:
            carried.setdefault(use.target, []).append(use.offset + gone)
    layers: dict[str, nn.Module] = {}
    for target in {**outputs, **dropped}:
        layer = modules[target]
        if target in outputs:
            layer = _narrow_outputs(layer, outputs[target])
        if target in dropped:
            layer = _narrow_inputs(layer, torch.cat(dropped[target]))
        layers[target] = layer
    return layers | {target: _narrow_carrier(modules[target], torch.cat(gone)) for target, gone in carried.items()}


def _narrow_outputs(layer: nn.Module, kept: Tensor) -> nn.Module:
    if not isinstance(layer, nn.Linear):
        return narrow(layer, kept)
    made = copy_layer(layer)
    made.weight = take(layer.weight, kept)
    if layer.bias is not None:
        made.bias = take(layer.bias, kept)
    made.out_features = len(kept)
    return made


def _narrow_inputs(layer: nn.Module, gone: Tensor) -> nn.Module:
    """A layer without some input features; of a grouped convolution equally many of each group go."""
    if isinstance(layer, nn.Linear):
        linear, kept = copy_layer(layer), _others(layer.in_features, gone)
        linear.weight, linear.in_features = take(layer.weight, kept, dim=1), len(kept)
        return linear
    assert isinstance(layer, Convolution)
    made, kept = copy_layer(layer), _others(layer.in_channels, gone)
    if layer.groups == 1:
        made.weight = take(layer.weight, kept, dim=1)
    else:
        size = layer.in_channels // layer.groups
        within = (kept % size).view(layer.groups, -1)
        filters = zip(layer.weight.detach().chunk(layer.groups), within, strict=True)
        made.weight = nn.Parameter(torch.cat([take(rows, index, dim=1) for rows, index in filters]), layer.weight.requires_grad)
    made.in_channels = len(kept)
    return made


def _narrow_carrier(layer: nn.Module, gone: Tensor) -> nn.Module:
    if not isinstance(layer, Convolution):
        channels = next(t.shape[0] for t in [*layer.parameters(), *layer.buffers()] if t.dim())
        return narrow(layer, _others(channels, gone))
    depthwise = narrow(layer, _others(layer.in_channels, gone))
    depthwise.in_channels = depthwise.groups = depthwise.out_channels
    return depthwise


def _others(count: int, some: Tensor) -> Tensor:
    """The indices below ``count`` that are not among some, in increasing order."""
    mask = torch.ones(count, dtype=torch.bool)
    mask[some] = False
    return mask.nonzero().flatten()

"""Narrow the layers around spans: makers give fewer channels, carriers carry fewer, readers lose the columns of the others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.copying import copy_layer, copy_without_hooks
from ..errors import ArgumentError
from ..graph.spans import Span, SpanUse
from ..layers.convolution import Convolution, as_convolution, as_weighted, is_transposed, output_dim
from ..layers.layer_classes import channel_count, narrow, take


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
        return others(self.span.channels, self.kept)


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
            dropped.setdefault(use.target, []).append(columns_of(use, gone))
        for use in one.span.carriers:
            carried.setdefault(use.target, []).append(use.offset + gone)
    layers: dict[str, nn.Module] = {}
    for target in {**outputs, **dropped}:
        layer = modules[target]
        if target in outputs:
            layer = with_outputs(layer, outputs[target])
        if target in dropped:
            layer = with_inputs(layer, others(inputs_of(layer), torch.cat(dropped[target])))
        layers[target] = layer
    for target, gone_channels in carried.items():
        carrier = modules[target]
        layers[target] = with_channels(carrier, others(channels_of(carrier), torch.cat(gone_channels)))
    return layers


def widened_layers(modules: Mapping[str, nn.Module], spans: Sequence[tuple[Span, int]]) -> dict[str, nn.Module]:
    """Layers as wide as those that were narrowed, by their targets, with values of no meaning; nothing is changed.

    Args:
        modules: the modules of a network with narrowed spans, by their targets.
        spans: each span of the original, and how many of its channels stayed.
    """
    more_outputs: Counter[str] = Counter()
    more_inputs: Counter[str] = Counter()
    more_channels: Counter[str] = Counter()
    for span, kept in spans:
        gone = span.channels - kept
        more_outputs.update(dict.fromkeys(span.makers, gone))
        for use in span.readers:
            more_inputs[use.target] += gone * use.width
        for use in span.carriers:
            more_channels[use.target] += gone
    layers: dict[str, nn.Module] = {}
    for target in {**more_outputs, **more_inputs}:
        layer = modules[target]
        if more_outputs[target]:
            layer = with_outputs(layer, _repeated(outputs_of(layer), more_outputs[target]))
        if more_inputs[target]:
            layer = with_inputs(layer, _repeated(inputs_of(layer), more_inputs[target]))
        layers[target] = layer
    for target, more in more_channels.items():
        layers[target] = with_channels(modules[target], _repeated(channels_of(modules[target]), more))
    return layers


def copied_layers(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Copies of layers that share no tensor with the network that they came from, nor its hooks."""
    return {target: copy_without_hooks(layer) for target, layer in layers.items()}


def layers_around(span: Span) -> set[str]:
    """The targets of all layers that make, carry or read the maps of a span."""
    return {*span.makers, *(use.target for use in (*span.carriers, *span.readers))}


def with_outputs(layer: nn.Module, channels: Tensor) -> nn.Module:
    """A convolution or fully connected layer that gives only these output channels, in this order."""
    if not isinstance(layer, nn.Linear) and not is_transposed(layer):
        return narrow(layer, channels)
    made = as_weighted(copy_layer(layer))
    made.weight = take(made.weight, channels, output_dim(made))
    if made.bias is not None:
        made.bias = take(made.bias, channels)
    setattr(made, "out_features" if isinstance(made, nn.Linear) else "out_channels", len(channels))
    return made


def with_inputs(layer: nn.Module, columns: Tensor) -> nn.Module:
    """A convolution or fully connected layer that reads only these inputs; of a grouped one equally many of each group."""
    made = copy_layer(layer)
    if isinstance(made, nn.Linear):
        made.weight, made.in_features = take(made.weight, columns, dim=1), len(columns)
        return made
    assert isinstance(made, Convolution)
    if made.groups == 1:
        made.weight = take(made.weight, columns, 1 - output_dim(made))
    else:
        within = (columns % (made.in_channels // made.groups)).view(made.groups, -1)
        filters = zip(made.weight.detach().chunk(made.groups), within, strict=True)
        weight = torch.cat([take(rows, index, dim=1) for rows, index in filters])
        made.weight = nn.Parameter(weight, made.weight.requires_grad)
    made.in_channels = len(columns)
    return made


def with_channels(carrier: nn.Module, channels: Tensor) -> nn.Module:
    """A norm, an activation with parameters or a depthwise convolution that carries only these channels, in this order."""
    if isinstance(carrier, nn.PReLU):  # of a single channel, too, which elsewhere is a number for all channels
        act = copy_layer(carrier)
        act.weight, act.num_parameters = take(carrier.weight, channels), len(channels)
        return act
    made = narrow(carrier, channels)
    if isinstance(made, Convolution):
        made.in_channels = made.groups = made.out_channels
    return made


def inputs_of(layer: nn.Module) -> int:
    """The input features of a convolution or fully connected layer."""
    return layer.in_features if isinstance(layer, nn.Linear) else as_convolution(layer).in_channels


def outputs_of(layer: nn.Module) -> int:
    """The output features of a convolution or fully connected layer."""
    return layer.out_features if isinstance(layer, nn.Linear) else as_convolution(layer).out_channels


def channels_of(carrier: nn.Module) -> int:
    """The channels of a norm, of an activation with parameters or of a depthwise convolution."""
    if isinstance(carrier, Convolution):
        return carrier.in_channels
    count = channel_count(carrier)
    assert count is not None, "what carries maps channel by channel says how many"
    return count


def columns_of(use: SpanUse, channels: Tensor) -> Tensor:
    """The input features of a reader that belong to some channels of a span."""
    return (use.offset + channels[:, None] * use.width + torch.arange(use.width)).flatten()


def others(count: int, some: Tensor) -> Tensor:
    """The indices below ``count`` that are not among some, in increasing order."""
    mask = torch.ones(count, dtype=torch.bool)
    mask[some] = False
    return mask.nonzero().flatten()


def _repeated(count: int, more: int) -> Tensor:
    """``count + more`` indices below ``count``, equally many in each run of them."""
    return torch.arange(count + more) * count // (count + more)

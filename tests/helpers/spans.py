"""The spans of a network, some channels of each, and the network in which readers have zeros for the others."""

import copy

import torch
from torch import nn

from ghostify.graph.spans import Span
from ghostify.surgery.narrowing import NarrowedSpan, narrowed_layers


def some(span: Span, share: float = 0.5, seed: int = 0) -> NarrowedSpan:
    """A random choice of channels, equally many of each group."""
    size = span.channels // span.groups
    count = max(1, round(share * size))
    generator = torch.Generator().manual_seed(seed)
    runs = [torch.randperm(size, generator=generator)[:count].sort().values + i * size for i in range(span.groups)]
    return NarrowedSpan(span, torch.cat(runs))


def narrowed(model: nn.Module, chosen: list[NarrowedSpan]) -> nn.Module:
    student = copy.deepcopy(model)
    for target, layer in narrowed_layers(dict(model.named_modules()), chosen).items():
        student.set_submodule(target, layer)
    return student


@torch.no_grad()
def with_zeros(model: nn.Module, chosen: list[NarrowedSpan]) -> nn.Module:
    """A copy at full width whose readers do not look at the channels that go."""
    model = copy.deepcopy(model)
    for one in chosen:
        for use in one.span.readers:
            layer = model.get_submodule(use.target)
            for channel in one.gone().tolist():
                first = use.offset + channel * use.width
                if getattr(layer, "groups", 1) == 1:
                    layer.weight[:, first : first + use.width] = 0
                else:
                    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
                    group = channel // inputs
                    layer.weight[group * outputs : (group + 1) * outputs, channel % inputs] = 0
    return model

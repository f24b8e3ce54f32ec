"""The spans of a network, some channels of each, and the network in which readers have zeros for the others."""

import copy
from collections import Counter

import torch
from torch import nn

from ghostify.graph.sites import is_listed
from ghostify.graph.spans import Span, find_spans
from ghostify.graph.tracing import trace
from ghostify.layers.layer_classes import lookup
from ghostify.surgery.narrowing import NarrowedSpan, narrowed_layers


def spans_of(model: nn.Module, streams: bool = False) -> list[Span]:
    """Of a network that traces as a whole."""
    (part,) = trace(model, is_listed, lambda module: lookup(module) is not None)
    calls = Counter(str(node.target) for node in part.graph.nodes if node.op == "call_module")
    modules = dict(model.named_modules(remove_duplicate=False))
    return find_spans(part.graph, modules, {name for name, count in calls.items() if count > 1}, streams)


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

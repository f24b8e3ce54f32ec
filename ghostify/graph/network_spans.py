"""The spans of a whole network, whose targets are qualified names."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..common.traced_networks import with_two_graphs
from .find_sites import trace_layers, trace_layers_in_training
from .span_reader import OUTPUT, find_spans
from .spans import Span, SpanUse
from .tracing import Part
from .usage import HOOKED, Usage, has_derived_weight, has_hooks


def find_network_spans(model: nn.Module, parts: Sequence[Part] | None = None, streams: bool = False) -> list[Span]:
    """The spans of a network, in execution order within each part that traces.

    What is used in more than one place, is hooked, quantised, parametrised or part of a Ghost module bars the spans around it.

    Args:
        model: any network.
        parts: of the network by :func:`ghostify.graph.find_sites.trace_layers`; None to trace it.
        streams: whether maps that several layers add up, the outputs of residual blocks, may be made fewer.
    """
    parts = trace_layers(model) if parts is None else parts
    usage = Usage(model, parts)
    bound = {name: reason for name in usage.modules if (reason := _reason_to_stay(usage, name))}
    spans: list[Span] = []
    for part in parts:
        modules = {part.relative(name): module for name, module in usage.modules.items() if part.holds(name)}
        of_modules = {part.relative(name): reason for name, reason in bound.items() if part.holds(name)}
        output = OUTPUT if part.whole else "its maps go into code that torch.fx can't trace"
        of_part = find_spans(part.graph, modules, of_modules, streams, output, part.name)
        if part.whole and (with_two_graphs(model) or _has_training_heads(part, parts)):
            graph = trace_layers_in_training(model)
            in_training = find_spans(graph, modules, of_modules, streams) if graph is not None else None
            of_part = _without_training_readers(of_part, in_training)
        spans += [_qualified(span, part) for span in of_part]
    return spans


def _has_training_heads(part: Part, parts: Sequence[Part]) -> bool:
    """Whether layers lie in parts that the graph of the whole network leaves out: it calls nothing in, at or around them."""
    called = [str(node.target) for node in part.graph.nodes if node.op == "call_module"]

    def is_called(name: str) -> bool:
        return any(f"{name}.".startswith(f"{target}.") or target.startswith(f"{name}.") for target in called)

    return any(not other.whole and not is_called(other.entry) for other in parts)


def _without_training_readers(spans: list[Span], in_training: list[Span] | None) -> list[Span]:
    """The spans of a graph, those barred that other layers make, carry or read in training.

    Args:
        spans: of the graph in evaluation mode.
        in_training: those of the graph in training mode; None where it has none, and all are barred.
    """
    same = {span for span in in_training or () if not span.reason}
    reason = "heads that are called only in training may read its maps"
    return [span if span.reason or span in same else replace(span, reason=reason) for span in spans]


def _reason_to_stay(usage: Usage, name: str) -> str | None:
    """Why a layer has to stay as wide as it is, whatever its span; None where it may change."""
    module = usage.modules[name]
    if not any(True for _ in module.parameters()) and not any(True for _ in module.buffers()):
        return HOOKED if has_hooks(module) else None
    if next(module.children(), None) is not None and not has_derived_weight(module):
        return None
    return usage.reason_to_stay(name)


def _qualified(span: Span, part: Part) -> Span:
    def uses(some: Sequence[SpanUse]) -> tuple[SpanUse, ...]:
        return tuple(replace(use, target=part.qualified(use.target)) for use in some)

    makers = tuple(part.qualified(target) for target in span.makers)
    return replace(span, makers=makers, carriers=uses(span.carriers), readers=uses(span.readers))

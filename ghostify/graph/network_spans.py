"""The spans of a whole network, whose targets are qualified names."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from .find_sites import trace_layers
from .span_reader import OUTPUT, find_spans
from .spans import Span, SpanUse
from .tracing import Part
from .usage import Usage, has_derived_weight, has_hooks, is_quantised


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
    bound = {name for name in usage.modules if _is_bound(usage, name)}
    spans: list[Span] = []
    for part in parts:
        modules = {part.relative(name): module for name, module in usage.modules.items() if part.holds(name)}
        shared = {part.relative(name) for name in bound if part.holds(name)}
        output = OUTPUT if part.whole else "its maps go into code that torch.fx can't trace"
        spans += [_qualified(span, part) for span in find_spans(part.graph, modules, shared, streams, output)]
    return spans


def _is_bound(usage: Usage, name: str) -> bool:
    """Whether a layer must stay as wide as it is, whatever its span."""
    module = usage.modules[name]
    if not any(True for _ in module.parameters()) and not any(True for _ in module.buffers()):
        return has_hooks(module)
    if next(module.children(), None) is not None and not has_derived_weight(module):
        return False
    derived = is_quantised(module) or has_derived_weight(module)
    return derived or not usage.is_owned(name) or usage.shared_weights(name) is not None or usage.in_ghost_module(name)


def _qualified(span: Span, part: Part) -> Span:
    def uses(some: Sequence[SpanUse]) -> tuple[SpanUse, ...]:
        return tuple(replace(use, target=part.qualified(use.target)) for use in some)

    makers = tuple(part.qualified(target) for target in span.makers)
    return replace(span, makers=makers, carriers=uses(span.carriers), readers=uses(span.readers))

"""Networks whose maps repeat, so that half of them can be absorbed without a loss, and a survey with an exact ridge."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from ghostify.absorption.install import absorb
from ghostify.absorption.survey import Survey, SurveySettings, survey_spans
from ghostify.graph.network_spans import find_network_spans
from ghostify.graph.spans import Span
from ghostify.layers.convolution import filters_of

EXACT = SurveySettings(ridge=1e-10)


def free_spans(model: nn.Module) -> list[Span]:
    return [span for span in find_network_spans(model) if not span.reason]


@torch.no_grad()
def with_copies(model: nn.Module) -> nn.Module:
    """Half of the maps of each free span, in each of its groups, become copies of the other half; in place."""
    modules = dict(model.named_modules())
    for span in free_spans(model):
        size = span.channels // span.groups
        to = [group * size + j for group in range(span.groups) for j in range(size // 2, size // 2 * 2)]
        source = [channel - size // 2 for channel in to]
        layers = [(modules[name], 0) for name in span.makers] + [(modules[use.target], use.offset) for use in span.carriers]
        for layer, offset in layers:
            for tensor in [*layer.parameters(), *layer.buffers()]:
                tensor = filters_of(layer) if tensor.dim() > 1 else tensor
                if tensor.dim() and len(tensor) >= offset + span.channels:
                    tensor[[offset + j for j in to]] = tensor[[offset + j for j in source]].clone()
    return model


def calls_of(*batches: torch.Tensor) -> list:
    return [((batch,), {}) for batch in batches]


def absorbed(model: nn.Module, survey: Survey) -> nn.Module:
    student = copy.deepcopy(model)
    for name, layer in absorb(dict(model.named_modules()), survey.narrowed, survey.readers).items():
        student.set_submodule(name, layer)
    return student


def halved(model: nn.Module, calls: list, settings: SurveySettings = EXACT) -> tuple[nn.Module, Survey]:
    """The network with half of the maps of each free span, the other half absorbed."""
    spans = free_spans(model)
    counts = {span.makers[0]: span.channels - span.channels // span.groups // 2 * span.groups for span in spans}
    survey = survey_spans(model.eval(), spans, calls, counts, settings=settings)
    return absorbed(model, survey), survey


def apart(model: nn.Module, student: nn.Module, x: torch.Tensor) -> float:
    """How far the outputs of two networks are apart, relative to those of the first."""
    with torch.no_grad():
        wanted = model(x)
        return float((student(x) - wanted).norm() / wanted.norm())


def changed(state: Mapping[str, torch.Tensor], model: nn.Module) -> list[str]:
    return [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])]

"""Absorption without images: which maps stay, and what their readers become, by what weights and norms tell of the maps.

The model is that of the warm start of Ghost modules (:mod:`ghostify.surgery.white_noise`): inputs are white noise, so that two
maps of a layer correlate as their filters do; each is Gaussian before its activation with the mean and deviation that its norm
prescribes; and different places of a map are independent, so that every tap of a reader is a regression of its own on the same
covariance of maps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.copying import copy_layer
from ..errors import ArgumentError
from ..graph.sites import Site
from ..graph.spans import Span, SpanUse
from ..layers.convolution import Convolution, WeightedLayer, as_convolution, as_weighted, filters_of, output_dim
from ..surgery.narrowing import (
    NarrowedSpan,
    columns_of,
    copied_layers,
    inputs_of,
    layers_around,
    narrowed_layers,
    others,
    outputs_of,
    with_inputs,
)
from ..surgery.planned import PlannedSpan
from ..surgery.white_noise import TINY, Channels, channel_correlation, describe_channels
from .elimination import Elimination, ReaderProblem, eliminate
from .install import AbsorbedReader, absorb

STEPS = 64  # of an elimination; what goes at one time goes together

RIDGE = 1e-2  # of the mean variance of a map: the model is rough, and small differences of maps mean nothing


@dataclass(frozen=True)
class Absorption:
    """What becomes of the spans of a network.

    Attributes:
        kept: (m,) the channels that stay of each narrowed span, by its name.
        layers: the layers around narrowed spans as they are afterwards, by their qualified names; they share no tensor with the
            network's.
    """

    kept: dict[str, Tensor]
    layers: dict[str, nn.Module]


@torch.no_grad()
def absorb_by_weights(
    network: nn.Module, spans: Sequence[PlannedSpan], sites: Mapping[str, Site], init: str = "warm", seed: int = 0
) -> Absorption:
    """Narrow spans without images.

    Args:
        network: the original, which is not changed.
        spans: its spans, and how many channels of each stay.
        sites: its layers by name, which tell what follows each.
        init: ``"warm"``; or ``"random"``, which takes the first channels and resets the layers. On the meta device neither
            computes anything.
        seed: of ``"random"``.

    Raises:
        ArgumentError: a layer around a span has values that are not finite.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    planned = [span for span in spans if span.reason is None]
    warm = init == "warm" and not any(as_weighted(modules[span.name]).weight.is_meta for span in planned)
    if not warm:
        narrowed = [NarrowedSpan(p.span, first_channels(p.span, p.kept)) for p in planned]
        layers = copied_layers(narrowed_layers(modules, narrowed))
        if init == "random":
            _reset(layers, seed)
        return Absorption({one.span.makers[0]: one.kept for one in narrowed}, layers)
    models = {p.name: _model_of(p.span, sites, modules) for p in planned}
    orders = [_eliminate(p.span, modules, models[p.name], p.kept) for p in planned]
    narrowed = [NarrowedSpan(p.span, order.kept(p.kept)) for p, order in zip(planned, orders, strict=True)]
    readers = _absorbed_readers(modules, sites, narrowed, models)
    kept = {one.span.makers[0]: one.kept for one in narrowed}
    return Absorption(kept, copied_layers(absorb(modules, narrowed, readers)))


@torch.no_grad()
def eliminate_by_weights(
    span: Span, sites: Mapping[str, Site], modules: Mapping[str, nn.Module], least: int = 1
) -> Elimination:
    """The order in which channels of a span go, and what each number of them loses, by weights and norms.

    Losses are shares of the variance of what the readers make of the maps, added up over readers.

    Args:
        span: a free span.
        sites: the layers of the network by name.
        modules: its modules by name.
        least: channels that stay at least, a multiple of the span's groups.

    Raises:
        ArgumentError: a layer around the span has values that are not finite.
    """
    return _eliminate(span, modules, _model_of(span, sites, modules), least)


def _eliminate(span: Span, modules: Mapping[str, nn.Module], model: "_MapModel", least: int) -> Elimination:
    problems = [problem for use in span.readers for problem in _problems(span, use, modules[use.target], model)]
    at_once = max(1, span.channels // span.groups // STEPS)
    return eliminate(problems, span.groups, max(least, span.groups), at_once)


def first_channels(span: Span, count: int) -> Tensor:
    """(count,) the first channels of a span, equally many of each of its groups."""
    size = span.channels // span.groups
    return (torch.arange(span.groups)[:, None] * size + torch.arange(count // span.groups)).flatten()


@dataclass(frozen=True)
class _MapModel:
    """Means (n,) and covariance (n, n) of the maps of a span where they are read, on the CPU."""

    mean: Tensor
    covariance: Tensor


def _model_of(span: Span, sites: Mapping[str, Site], modules: Mapping[str, nn.Module]) -> _MapModel:
    """The maps of the first layer that makes them, carried through the depthwise convolutions on the way.

    Raises:
        ArgumentError: a layer around the span has values that are not finite.
    """
    _check_finite(span, modules)
    correlation: Tensor | None = None
    for name in (span.makers[0], *(use.target for use in span.carriers if use.offset == 0)):
        module = modules[name]
        if not isinstance(module, (Convolution, nn.Linear)):
            continue
        site = sites.get(name)
        last = describe_channels(as_convolution(module), site.norm if site else None, site.act if site else None)
        last = last.first(span.channels)  # a depthwise convolution may carry other maps after them
        if correlation is None:
            correlation = channel_correlation(last, getattr(module, "groups", 1)).cpu()
        correlation = _carried(correlation, last)
    assert correlation is not None, "the first maker is a convolution or fully connected"
    deviation = last.out_var.cpu().clamp_min(TINY).sqrt()
    return _MapModel(last.out_mean.cpu(), correlation * deviation[:, None] * deviation)


def _check_finite(span: Span, modules: Mapping[str, nn.Module]) -> None:
    for target in sorted(layers_around(span) & modules.keys()):
        for name, tensor in [*modules[target].named_parameters(), *modules[target].named_buffers()]:
            if not bool(tensor.isfinite().all()):
                raise ArgumentError(f"model has NaN or infinite weights in '{target}.{name}'")


def _carried(correlation: Tensor, channels: Channels) -> Tensor:
    """The correlation of maps after an activation."""
    share = channels.fidelity.cpu().sqrt() * channels.slope.cpu().sign()
    return (correlation * share[:, None] * share).fill_diagonal_(1)


def _weight_of(span: Span, use: SpanUse, layer: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """For each group of a reader: its maps of the span, and its filters as (maps, taps * outputs)."""
    weight = filters_of(layer).float().cpu()
    groups = getattr(layer, "groups", 1)
    size = span.channels // groups
    for group, rows in enumerate(weight.chunk(groups)):
        taps = rows[:, use.offset : use.offset + size * use.width].reshape(len(rows), size, -1)
        yield torch.arange(size) + group * size, taps.permute(1, 2, 0).flatten(1)


def _problems(span: Span, use: SpanUse, layer: nn.Module, model: _MapModel) -> Iterator[ReaderProblem]:
    parts = [(maps, _shortened(weight)) for maps, weight in _weight_of(span, use, layer)]
    covariances = [model.covariance[maps][:, maps] for maps, _ in parts]
    powers = [float((weight * (cov @ weight)).sum()) for (_, weight), cov in zip(parts, covariances, strict=True)]
    total = max(sum(powers), TINY)
    for (maps, weight), covariance in zip(parts, covariances, strict=True):
        gram = _with_ridge(covariance)
        cross = gram @ weight
        columns = torch.full((span.channels, 1), -1)
        columns[maps, 0] = torch.arange(len(maps))
        yield ReaderProblem(gram, cross, float((weight * cross).sum()), columns, 1 / total)


def _shortened(filters: Tensor) -> Tensor:
    """As many columns as rows at most, with the products of filters (maps, taps * outputs): losses ask for no more."""
    if filters.shape[1] <= len(filters):
        return filters
    products = filters @ filters.T
    return torch.linalg.cholesky(products + 1e-5 * (products.diagonal().mean() + TINY) * torch.eye(len(products)))


def _with_ridge(covariance: Tensor) -> Tensor:
    return covariance + (RIDGE * covariance.diagonal().mean() + TINY) * torch.eye(len(covariance)).to(covariance)


def _absorbed_readers(
    modules: Mapping[str, nn.Module],
    sites: Mapping[str, Site],
    narrowed: Sequence[NarrowedSpan],
    models: Mapping[str, _MapModel],
) -> dict[str, AbsorbedReader]:
    """The readers once the maps of all spans have gone; maps of different spans count as independent."""
    layers: dict[str, WeightedLayer] = {}
    shifts: dict[str, Tensor] = {}
    gone: dict[str, list[Tensor]] = {}
    for one in narrowed:
        for use in one.span.readers:
            layer = layers.setdefault(use.target, _with_float_weight(modules[use.target]))
            shift = shifts.setdefault(use.target, torch.zeros(outputs_of(layer)))
            groups = getattr(layer, "groups", 1)
            change = _absorb(one, use, filters_of(layer), models[one.span.makers[0]], groups)
            shift += change * _taps_at_a_place(layer)
            gone.setdefault(use.target, []).append(columns_of(use, one.gone()))
    return {name: _reader(name, layer, sites.get(name), shifts[name], torch.cat(gone[name])) for name, layer in layers.items()}


def _with_float_weight(layer: nn.Module) -> WeightedLayer:
    copied = as_weighted(copy_layer(layer))
    copied.weight = nn.Parameter(copied.weight.detach().float().cpu().clone())
    return copied


def _reader(name: str, layer: WeightedLayer, site: Site | None, shift: Tensor, gone: Tensor) -> AbsorbedReader:
    weight = as_weighted(with_inputs(layer, others(inputs_of(layer), gone))).weight.detach()
    norm = site.norm_name if site is not None and getattr(site.norm, "running_mean", None) is not None else None
    takes_shift = layer.bias is not None or norm is not None
    return AbsorbedReader(weight, shift if takes_shift else None, None if layer.bias is not None else norm)


def _taps_at_a_place(layer: WeightedLayer) -> float:
    """The share of a kernel's taps that an output position sees, on average: a transposed convolution spreads its taps."""
    return 1 / math.prod(layer.stride) if isinstance(layer, Convolution) and output_dim(layer) else 1


def _absorb(one: NarrowedSpan, use: SpanUse, weight: Tensor, model: _MapModel, groups: int) -> Tensor:
    """Give the columns of the maps that stay what makes up for the others; in place, the others' columns are left.

    Returns:
        (outputs,) by how much less the mean outputs are where all taps of the kernel are seen.
    """
    shift = torch.zeros(len(weight))
    size, outputs = one.span.channels // groups, len(weight) // groups
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        columns = weight[rows, use.offset : use.offset + size * use.width]
        filters = columns.reshape(outputs, size, -1).permute(1, 2, 0)  # (maps, taps, outputs)
        maps = torch.arange(size) + group * size
        stays = torch.isin(maps, one.kept)
        gram, mean = _with_ridge(model.covariance[maps][:, maps]), model.mean[maps]
        solved = torch.linalg.solve(gram[stays][:, stays], (gram[stays] @ filters.flatten(1)))
        absorbed = torch.zeros_like(filters)
        absorbed[stays] = solved.view(-1, *filters.shape[1:])
        shift[rows] = (mean[:, None] * (filters - absorbed).sum(1)).sum(0)
        weight[rows, use.offset : use.offset + size * use.width] = absorbed.permute(2, 0, 1).reshape(columns.shape)
    return shift


def _reset(layers: Mapping[str, nn.Module], seed: int) -> None:
    """New random parameters in place of the original's, without a trace in the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers.values():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()

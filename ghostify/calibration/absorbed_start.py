"""What a student with absorbed ghosts starts its calibration from: maps that images choose, readers that absorb the others."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..absorption.install import AbsorbedReader, absorb
from ..absorption.survey import SurveyedSpan, SurveySettings, survey_spans
from ..common.calls import Arguments, of_each_size
from ..common.copying import copy_swapped
from ..graph.find_sites import find_sites, trace_layers
from ..graph.sites import DEPTHWISE, Site
from ..layers.convolution import Convolution
from ..students.conversion_recipe import ConversionRecipe, SpanRecord
from ..students.replay import planned_as
from ..surgery.narrowing import NarrowedSpan, channels_of, copied_layers, layers_around, narrowed_layers, others
from ..surgery.swap import make_swaps


@dataclass(frozen=True)
class AbsorbedStart:
    """A student's layers before the walk through its network.

    Attributes:
        student: a copy of the student, which may be changed.
        sites: the sites of the original, narrowed as the student is, by name.
        kept: (m,) the channels that stay of what a layer makes, or a depthwise convolution carries, by the layer's name.
        narrower: the names of all layers that got narrower.
        readers: the names of those that read narrowed spans.
        notes: what should be known of the spans.
    """

    student: nn.Module
    sites: dict[str, Site]
    kept: dict[str, Tensor] = field(default_factory=dict)
    narrower: frozenset[str] = frozenset()
    readers: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def dense(self, converted: Mapping[str, Site]) -> dict[str, Site]:
        """The layers that may be refitted, by name: those that were not converted."""
        return {name: site for name, site in self.sites.items() if name not in converted and site.reason in (None, DEPTHWISE)}


@torch.no_grad()
def absorbed_start(
    student: nn.Module,
    teacher: nn.Module,
    recipe: ConversionRecipe,
    calls: Collection[Arguments],
    settings: SurveySettings,
    on_span: Callable[[str], None],
    choose: bool = True,
) -> AbsorbedStart:
    """A copy of the student whose spans keep what the images say; without spans just a copy.

    Args:
        student: it is not changed.
        teacher: the original, in evaluation mode; it is not changed.
        recipe: the student's.
        calls: the arguments of a forward pass for each batch.
        settings: of the survey.
        on_span: called with the name of each span that is decided.
        choose: whether the images choose the maps that stay; else they are those of the recipe.
    """
    if not recipe.narrowed:
        return AbsorbedStart(copy_swapped(student, {}), _sites(teacher, calls))
    records = {record.name: record for record in recipe.narrowed}
    counts = {name: len(record.kept) for name, record in records.items()}
    spans = [record.span for record in records.values()]
    channels = {} if choose else {name: record.narrowed().kept for name, record in records.items()}
    survey = survey_spans(teacher, spans, calls, counts, channels=channels, settings=settings, on_span=on_span)
    unseen = _with_neighbours(survey.unreached, records)
    narrowed = [
        records[name].narrowed() if name in unseen else NarrowedSpan(one.span, _kept(one)) for name, one in survey.spans.items()
    ]
    narrowed += [records[name].narrowed() for name in survey.unreached]
    untouched = {layer for name in unseen for layer in layers_around(records[name].span)}
    readers = {name: reader for name, reader in survey.readers.items() if name not in untouched}
    modules = dict(teacher.named_modules(remove_duplicate=False))
    layers = copied_layers(absorb(modules, narrowed, readers))
    slim = copy_swapped(teacher, {modules[name]: layer for name, layer in layers.items()})
    sites = _sites(slim, calls)
    swaps = copied_layers(layers) | _ghosts_among(layers, sites, recipe)
    work = {  # a norm that a Ghost module has taken in stands nowhere else
        student.get_submodule(name): layer
        for name, layer in swaps.items()
        if name not in untouched and not isinstance(layer, nn.Identity)
    }
    return AbsorbedStart(
        student=copy_swapped(student, work),
        sites=_with_norms_of(sites, modules | narrowed_layers(modules, narrowed), readers.values()),
        kept=_kept_outputs(narrowed, modules),
        narrower=frozenset(layer for one in narrowed for layer in layers_around(one.span)),
        readers=frozenset(use.target for one in narrowed for use in one.span.readers),
        notes=(f"maps around {', '.join(sorted(unseen))} are those that convert chose: no image reaches all that reads them",)
        if unseen
        else (),
    )


def _with_norms_of(
    sites: Mapping[str, Site], modules: Mapping[str, nn.Module], readers: Iterable[AbsorbedReader]
) -> dict[str, Site]:
    """The sites with norms that have not taken a reader's shift: they say what the teacher makes of its own maps."""
    taken = {reader.norm for reader in readers if reader.norm is not None}
    return {
        name: replace(site, norm=modules[site.norm_name]) if site.norm_name is not None and site.norm_name in taken else site
        for name, site in sites.items()
    }


def _sites(network: nn.Module, calls: Collection[Arguments]) -> dict[str, Site]:
    """The sites of a network by name, as they are on what it is called with."""
    return {site.name: site for site in find_sites(network, trace_layers(network, *of_each_size(calls)))}


def _ghosts_among(layers: Collection[str], sites: Mapping[str, Site], recipe: ConversionRecipe) -> dict[str, nn.Module]:
    """Qualified name -> new layer, for what Ghost modules replace, of those Ghost modules that are made of narrowed layers.

    Args:
        layers: the names of the layers that got narrower.
        sites: the sites of the narrowed original, by name.
        recipe: the student's.
    """
    records = [record for record in recipe.sites if record.converted and record.name in layers]
    return make_swaps([planned_as(record, sites[record.name]) for record in records])


def _kept(one: SurveyedSpan) -> Tensor:
    assert one.kept is not None, "every span that was surveyed has a count"
    return one.kept


def _kept_outputs(narrowed: Sequence[NarrowedSpan], modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The output channels that stay of each convolution and fully connected layer that gives fewer."""
    gone: dict[str, list[Tensor]] = {}
    for one in narrowed:
        for use in one.span.carriers:
            if isinstance(modules[use.target], Convolution):
                gone.setdefault(use.target, []).append(use.offset + one.gone())
    carried = {name: others(channels_of(modules[name]), torch.cat(some)) for name, some in gone.items()}
    return carried | {maker: one.kept for one in narrowed for maker in one.span.makers}


def _with_neighbours(names: Collection[str], records: Mapping[str, SpanRecord]) -> set[str]:
    """Some spans, and those that have a layer in common with one of them, and so on."""
    touched = set(names)
    while more := {
        name
        for name, record in records.items()
        if name not in touched
        and any(not layers_around(record.span).isdisjoint(layers_around(records[other].span)) for other in touched)
    }:
        touched |= more
    return touched

"""One pass of images through the original: what its spans lose at every number of maps, and readers that absorb maps."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from ..common.calls import Arguments, of_each_size
from ..errors import ArgumentError
from ..graph.find_sites import trace_layers
from ..graph.spans import Span, SpanUse
from ..graph.tracing import Part
from ..graph.usage import Usage
from ..surgery.narrowing import NarrowedSpan
from .elimination import Elimination, eliminate
from .install import AbsorbedReader
from .network_walk import NetworkWalk, Place
from .reader_layer import ReaderLayer
from .reader_moments import ReaderMoments
from .reader_output import output_of, variance_of
from .reader_system import ReaderSystem
from .regression import WIDEST

STEPS = 64  # in how many steps the maps of a wide span go
RIDGE = 1e-4  # relative to the mean variance of a reader's inputs
MEMORY = 512 << 20  # bytes of feature maps held; what is above goes to a temporary file


@dataclass(frozen=True)
class SurveyedSpan:
    """What the images tell of a span.

    Attributes:
        span: the span.
        elimination: the order in which its maps go, and what each number of maps loses.
        kept: (m,) channels that stay, in increasing order; None where no count was asked for.
    """

    span: Span
    elimination: Elimination
    kept: Tensor | None = None


@dataclass(frozen=True)
class Survey:
    """What one pass of images tells of the spans of a network.

    Attributes:
        spans: by the name of the span's first maker, in the order in which they were decided.
        readers: by qualified name, all that read a span of which fewer maps stay than there are.
        unreached: names of spans that could not be decided, since no image reached one of their readers.
    """

    spans: dict[str, SurveyedSpan]
    readers: dict[str, AbsorbedReader]
    unreached: tuple[str, ...] = ()

    @property
    def narrowed(self) -> list[NarrowedSpan]:
        """The spans of which channels go, where there were counts."""
        kept = [(one.span, one.kept) for one in self.spans.values()]
        return [NarrowedSpan(span, stay) for span, stay in kept if stay is not None and len(stay) < span.channels]


@dataclass(frozen=True)
class SurveySettings:
    """How spans are surveyed.

    Attributes:
        ridge: pull towards the original filters, relative to the mean variance of a reader's inputs.
        seed: of the positions that wide layers sample.
        steps: in how many steps the maps of a wide span go.
        widest: unknowns of one filter up to which the taps of a map are told apart.
        memory: bytes of feature maps held; what is above goes to a temporary file.
    """

    ridge: float = RIDGE
    seed: int = 0
    steps: int = STEPS
    widest: int = WIDEST
    memory: int = MEMORY


@torch.no_grad()
def survey_spans(
    model: nn.Module,
    spans: Sequence[Span],
    calls: Collection[Arguments],
    counts: Mapping[str, int] | None = None,
    *,
    channels: Mapping[str, Tensor] | None = None,
    parts: Sequence[Part] | None = None,
    metrics: Mapping[str, Tensor] | None = None,
    settings: SurveySettings | None = None,
    on_span: Callable[[str], None] | None = None,
) -> Survey:
    """Survey the free spans of a network in one walk over its layers in execution order.

    The second moments of what each reader sees on the original tell what losing maps costs, exactly, all other maps fitted
    anew: the reader's target is its own output, which is linear in what it sees. A span loses what all its readers lose
    together. Where one reader sees several spans, over a concatenation, and there are counts, spans are decided one after the
    other, each without the maps that earlier ones lost; without counts each is surveyed with all maps of the others.

    Args:
        model: the original, in evaluation mode; it is not changed.
        spans: of the network by :func:`ghostify.graph.network_spans.find_network_spans`; those with a reason are passed over.
        calls: the arguments of a forward pass for each batch, in memory or spilled; they are gone through once or more.
        counts: how many maps stay of spans, by the name of the span's first maker. Then these spans alone are surveyed, down to
            their counts, and their readers' filters are solved for. None surveys all spans, down to one map of each group.
        channels: of spans with a count, (m,) the channels that stay, in increasing order, where that is not for the images to
            say; no losses are computed of these spans.
        parts: of the network by :func:`ghostify.graph.find_sites.trace_layers`; None to trace it.
        metrics: by the name of a reader, weights of its errors: (K,) for squared errors of its outputs, or (K, K) for the
            quadratic form of all, both in units of what comes behind the norm that follows it; products across groups do not
            count. Readers that are not named have 1 / V for all outputs, V the variance of the output of the block that the
            reader belongs to, summed over channels: the sum with the shortcut, after its activation, where there is one, else
            the reader's own output after norm and activation.
        settings: of the regressions.
        on_span: called with the name of each span that is decided.

    Raises:
        ArgumentError: a count of no span, of one that is not free, or out of its range; channels that are not as many as the
            count; or maps that overflow.
    """
    free = {span.makers[0]: span for span in spans if not span.reason}
    _check_channels(free, counts or {}, channels or {})
    if counts is not None:
        _check_counts(spans, counts)
        free = {name: span for name, span in free.items() if name in counts}
    parts = trace_layers(model, *of_each_size(calls)) if parts is None else parts
    usage, settings = Usage(model, parts), settings or SurveySettings()
    work = _Work(usage, free, counts, channels or {}, metrics or {}, settings, on_span or (lambda name: None), len(calls))
    NetworkWalk(model, parts, set(work.uses), work, settings.memory).run(calls)
    return work.finish()


def _check_counts(spans: Sequence[Span], counts: Mapping[str, int]) -> None:
    known = {span.makers[0]: span for span in spans}
    for name, count in counts.items():
        span = known.get(name)
        if span is None:
            raise ArgumentError(f"counts has {name!r}, which is the first maker of no span")
        if span.reason:
            raise ArgumentError(f"the span of {name!r} can't be narrowed: {span.reason}")
        if not span.groups <= count <= span.channels or count % span.groups:
            groups = f", in {span.groups} equal groups" if span.groups > 1 else ""
            raise ArgumentError(f"the span of {name!r} must keep 1 to {span.channels} channels{groups}, not {count}")


def _check_channels(free: Mapping[str, Span], counts: Mapping[str, int], channels: Mapping[str, Tensor]) -> None:
    for name, kept in channels.items():
        if name not in free or len(NarrowedSpan(free[name], kept).kept) != counts.get(name):
            raise ArgumentError(f"channels has {len(kept)} channels of {name!r}, and counts {counts.get(name)}")


@dataclass
class _Work:
    """A survey while it goes on: readers are held until all of their spans are decided."""

    usage: Usage
    free: dict[str, Span]
    counts: Mapping[str, int] | None
    channels: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]
    settings: SurveySettings
    on_span: Callable[[str], None]
    batches: int
    systems: dict[str, ReaderSystem] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)  # metrics of the readers' own outputs
    norms: dict[str, str | None] = field(default_factory=dict)
    spans: dict[str, SurveyedSpan] = field(default_factory=dict)
    readers: dict[str, AbsorbedReader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uses: dict[str, list[tuple[str, SpanUse]]] = {}  # by reader: spans to be decided
        for name, span in self.free.items():
            if self._count(name) == span.channels:
                kept = torch.arange(span.channels)
                self.spans[name] = SurveyedSpan(span, _settled(span, kept), kept)
                continue
            for use in span.readers:
                self.uses.setdefault(use.target, []).append((name, use))

    def looks_at(self, place: Place) -> list[fx.Node]:
        """The output of the block that a reader belongs to, where its losses are relative to that."""
        return [] if place.name in self.metrics else [output_of(place, self.usage).block]

    def visit(self, place: Place) -> None:
        """Gather what a reader sees; then decide the spans of which all readers have been visited, and finish readers."""
        layer = self.usage.modules[place.name]
        reader = ReaderLayer(layer, [use for _, use in self.uses[place.name]])
        output = output_of(place, self.usage)
        moments = None
        source = place.node.all_input_nodes[0]
        for (inputs,) in place.run.run([source]):
            if inputs.numel():
                if moments is None:
                    intercept = reader.bias is not None or output.norm is not None
                    images = self.batches * len(inputs)
                    moments = ReaderMoments(reader, images, self.settings.seed, intercept, self.settings.widest)
                moments.add(inputs)
        if moments is None:
            return
        metric = self.metrics.get(place.name)
        if metric is None:
            values = (value for (value,) in place.run.run([output.block]))
            variance = variance_of(values, len(output.scale), isinstance(layer, nn.Linear))
            metric = torch.ones_like(output.scale) / variance if variance > 0 else torch.zeros_like(output.scale)
        system = ReaderSystem(moments, self.settings.ridge)
        del moments  # they may be large
        self._hold(place.name, system, metric, output.scale, output.norm)

    def _hold(self, name: str, system: ReaderSystem, metric: Tensor, scale: Tensor, norm: str | None) -> None:
        metric = metric.to(scale)
        self.weights[name] = metric * scale.square() if metric.dim() == 1 else metric * scale[:, None] * scale
        self.systems[name] = system
        self.norms[name] = norm if system.reader.bias is None else None
        for span in dict.fromkeys(span for span, _ in self.uses[name]):
            if all(use.target in self.systems for use in self.free[span].readers):
                self._decide(span)
        self._finish_readers()

    def _decide(self, name: str) -> None:
        """Eliminate the maps of a span, or take away those that are not to stay."""
        span, kept = self.free[name], self.channels.get(name)
        maps = {target: self._maps(name, target) for target in dict.fromkeys(use.target for use in span.readers)}
        elimination = self._eliminate(span, maps, self._count(name)) if kept is None else _settled(span, kept)
        if kept is None and self.counts is not None:
            kept = elimination.kept(self.counts[name])
        if kept is not None:
            for target, some in maps.items():
                self.systems[target].drop(some[NarrowedSpan(span, kept).gone()])
        self.spans[name] = SurveyedSpan(span, elimination, kept)
        self.on_span(name)

    def _eliminate(self, span: Span, maps: Mapping[str, Tensor], count: int | None) -> Elimination:
        problems = [one for target, some in maps.items() for one in self.systems[target].problems(some, self.weights[target])]
        least = span.groups if count is None else count
        at_once = max(1, span.channels // span.groups // self.settings.steps)
        elimination = eliminate(problems, span.groups, least, at_once)
        losses = (elimination.losses - elimination.losses[span.channels]).clamp_min(0)
        return Elimination(elimination.order, losses)

    def _finish_readers(self, unreached: Collection[str] = ()) -> None:
        """Solve for the filters of the readers whose spans are all decided, and forget what the images told of them."""
        for target in list(self.systems):
            spans = {span for span, _ in self.uses[target]}
            if not all(span in self.spans or span in unreached for span in spans):
                continue
            system = self.systems[target]
            if self.counts is not None and not bool(system.kept.all()):
                weight, shift = system.solved()
                self.readers[target] = AbsorbedReader(weight, shift, self.norms[target])
            del self.systems[target], self.weights[target]

    def finish(self) -> Survey:
        """Finish the readers that wait for spans that no image reaches."""
        unreached = tuple(name for name in self.free if name not in self.spans)
        self._finish_readers(unreached)
        return Survey(self.spans, self.readers, unreached)

    def _count(self, name: str) -> int | None:
        return None if self.counts is None else self.counts[name]

    def _maps(self, name: str, target: str) -> Tensor:
        """(n, uses) which maps of a reader the channels of a span are."""
        uses = [use for span, use in self.uses[target] if span == name]
        return torch.stack([self.systems[target].reader.map_index(use, self.free[name].channels) for use in uses], 1)


def _settled(span: Span, kept: Tensor) -> Elimination:
    """Of a span whose maps the images do not choose: those that stay come last, and of losses nothing is known."""
    losses = torch.full((span.channels + 1,), torch.inf, dtype=torch.float64)
    losses[span.channels] = 0
    return Elimination(torch.cat([NarrowedSpan(span, kept).gone(), kept]), losses)

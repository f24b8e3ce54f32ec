"""The recipe: what a conversion did, as plain data that travels with the student."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, fx, nn

from ..common.files import PlainData
from ..common.pickling import named_by_package
from ..errors import ArgumentError
from ..graph.functions_as_modules import describe_activation
from ..graph.spans import Span, SpanUse
from ..surgery.narrowing import NarrowedSpan
from ..surgery.planned import PlannedSite, PlannedSpan
from ..version import __version__

FORMAT = 2  # of recipes in files; 1 knew no spans


_KEY = "ghostify_recipe"


@named_by_package
@dataclass(frozen=True)
class SiteRecord:
    """One site: what stood there, and what stands there now or why it was skipped.

    Attributes:
        name: qualified name of the layer.
        kind: ``"conv"`` or ``"linear"``.
        layers: class names of the layer and of those after it that were taken in, such as ``"Conv2d-BatchNorm2d-ReLU"``.
        in_channels, out_channels, kernel_size, groups: sizes of the original layer.
        dense_params: parameters of the original layers.
        norm, act: qualified names of the norm and the activation that were taken in.
        shared_act: qualified name of an activation that stayed where it is, and of which a copy feeds the cheap operation.
        function: the same where it is a function: ``{"class": "ReLU", "inplace": False}``.
        ratio: original channels for each intrinsic one; None where the site was skipped.
        intrinsic: intrinsic channels, or the rank of a reduced linear layer.
        cheap: ``"depthwise"`` or ``"pointwise"``; empty for a linear layer.
        dw_size: kernel size of a depthwise cheap operation, otherwise 0.
        reason: why the site was skipped; None where it was converted.
        first: whether it is the first layer of the network.
        absorbed: whether the layer became narrower, since maps that it makes, carries or reads are absorbed.
        tells_type: whether the network asks for the type or the device of the layer's weight.
    """

    name: str
    kind: str
    layers: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    groups: int
    dense_params: int
    norm: str | None = None
    act: str | None = None
    shared_act: str | None = None
    function: PlainData | None = None
    ratio: float | None = None
    intrinsic: int = 0
    cheap: str = ""
    dw_size: int = 0
    reason: str | None = None
    first: bool = False
    absorbed: bool = False
    tells_type: bool = False

    @property
    def converted(self) -> bool:
        """Whether a Ghost module or a thin pair of layers stands in the place of the layer."""
        return self.reason is None and self.ratio is not None

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.groups in (self.in_channels, self.out_channels)

    @property
    def dense_per_position(self) -> int:
        """Multiply-adds of the original layer for each output position."""
        size = 1
        for k in self.kernel_size:
            size *= k
        return self.out_channels * (self.in_channels // self.groups) * size


@named_by_package
@dataclass(frozen=True)
class SpanRecord:
    """One span: the layers around it, and which of its channels stayed.

    Attributes:
        channels: of the original.
        makers: qualified names of the layers that make them.
        carriers, readers: layers that carry and that read them; for each its qualified name, its first channel that belongs to
            the span, and the input features for each channel.
        groups: equal runs of channels of which equally many stayed.
        kept: the channels that stayed, in increasing order; empty where all did.
        ratio: channels of the original for each that stayed; None where all did.
        reason: why all stayed; None where some did not.
    """

    channels: int
    makers: tuple[str, ...]
    carriers: tuple[tuple[str, int, int], ...]
    readers: tuple[tuple[str, int, int], ...]
    groups: int = 1
    kept: tuple[int, ...] = ()
    ratio: float | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """The qualified name of the first layer that makes the maps, by which the span is known."""
        return self.makers[0]

    @property
    def span(self) -> Span:
        """The span that was recorded; without a reason, since it was free."""
        carriers, readers = (tuple(SpanUse(*use) for use in uses) for uses in (self.carriers, self.readers))
        return Span(self.channels, self.makers, carriers, readers, self.groups)

    def narrowed(self) -> NarrowedSpan:
        """The span with the channels that stayed."""
        return NarrowedSpan(self.span, torch.tensor(self.kept))


@named_by_package
@dataclass(frozen=True)
class ConversionRecipe:
    """Everything needed to convert a fresh model of the same architecture in the same way, apart from weights.

    Attributes:
        config: settings of the conversion, as plain data.
        sites: a record of each site, converted or skipped.
        versions: versions of ghostify and torch that converted.
        format: version of this record's fields.
        spans: a record of each span, narrowed or not; empty where none was looked for.
        verified: on what input the original was found to compute the same with dense layers in the new layers' places, or why
            that was not looked at; empty where a student is older than this check.
        derived: qualified names of the modules whose weights the original makes from others at run time; None where a student
            is older than this note.
    """

    config: PlainData
    sites: tuple[SiteRecord, ...]
    versions: dict[str, str]
    format: int = FORMAT
    spans: tuple[SpanRecord, ...] = ()
    verified: str = ""
    derived: tuple[str, ...] | None = None

    @property
    def narrowed(self) -> list[SpanRecord]:
        """The spans of which some channels went."""
        return [record for record in self.spans if record.kept]

    @property
    def converts(self) -> bool:
        """Whether anything of the network was changed."""
        return bool(self.narrowed) or any(record.converted for record in self.sites)

    def to_dict(self) -> PlainData:
        """Plain data, as for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: PlainData) -> "ConversionRecipe":
        """The recipe of which :meth:`to_dict` gave the data.

        Raises:
            ArgumentError: the data has a newer format, or is no recipe.
        """
        try:
            if data["format"] > FORMAT:
                raise ArgumentError(
                    f"the recipe has format {data['format']}, and ghostify {__version__} reads formats up to {FORMAT}: "
                    "install a newer version"
                )
            records = tuple(SiteRecord(**{**r, "kernel_size": tuple(r["kernel_size"])}) for r in data["sites"])
            if len({record.name for record in records}) < len(records):
                raise ValueError("a site stands there twice")
            spans = tuple(_span_record(record) for record in data.get("spans", ()))
            derived = None if data.get("derived") is None else tuple(map(str, data["derived"]))
            verified = str(data.get("verified", ""))
            return cls(dict(data["config"]), records, dict(data["versions"]), data["format"], spans, verified, derived)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError(f"the recipe is damaged: {error}") from error


def make_recipe(
    plan: Sequence[PlannedSite],
    settings: PlainData,
    before: ConversionRecipe | None,
    spans: Sequence[SpanRecord] = (),
) -> ConversionRecipe:
    """The recipe of a plan; sites that an earlier conversion converted keep their record.

    Args:
        plan: the sites, and what becomes of each.
        settings: settings of the conversion, as plain data.
        before: recipe of the earlier conversion, where the network is a student already.
        spans: records of the spans.
    """
    earlier = {r.name: r for r in before.sites} if before else {}
    records = earlier | {p.site.name: _record_over(earlier.get(p.site.name), p) for p in plan}
    sites = tuple(records.values())
    spans = spans if before is None or not before.narrowed else before.spans
    versions = {"ghostify": __version__, "torch": str(torch.__version__)}
    return ConversionRecipe(settings, sites, versions, spans=tuple(spans))


def record_span(planned: PlannedSpan, kept: Tensor | None) -> SpanRecord:
    """The record of a span.

    Args:
        planned: the span and what becomes of it.
        kept: its channels that stay; None where all do.
    """
    carriers, readers = (
        tuple((use.target, use.offset, use.width) for use in uses) for uses in (planned.span.carriers, planned.span.readers)
    )
    record = SpanRecord(planned.span.channels, planned.span.makers, carriers, readers, planned.span.groups)
    if kept is None:
        return replace(record, reason=planned.reason)
    return replace(record, kept=tuple(kept.tolist()), ratio=planned.ratio)


def _span_record(data: PlainData) -> SpanRecord:
    """The record of a span from plain data, its numbers checked, since a damaged file may claim what no conversion gives."""
    uses = {
        key: tuple((str(name), int(offset), int(width)) for name, offset, width in data[key]) for key in ("carriers", "readers")
    }
    rest = {key: tuple(data[key]) for key in ("makers", "kept")}
    record = SpanRecord(**{**data, **uses, **rest})
    if not record.makers or not all(type(number) is int for number in (record.channels, record.groups, *record.kept)):
        raise ValueError("a span has no makers, or channels that are no numbers")
    return record


def attach_recipe(model: nn.Module, recipe: ConversionRecipe) -> None:
    """Make a network a student, which :func:`recipe_of` knows; copies and pickles keep the recipe."""
    model._ghostify_recipe = recipe  # type: ignore[assignment]
    if isinstance(model, fx.GraphModule):
        vars(model).setdefault("meta", {})[_KEY] = (
            recipe  # copying a GraphModule keeps this, and pickling it keeps the attribute
        )


def recipe_of(model: nn.Module) -> ConversionRecipe | None:
    """The recipe of a student; None for any other model."""
    kept = vars(model).get("meta", {}).get(_KEY) if isinstance(model, fx.GraphModule) else None  # not all have it
    return kept or vars(model).get("_ghostify_recipe")


def not_converted(model: nn.Module) -> str:
    """In words, that a network is no student, and what to do; torch's ``AveragedModel`` is none, but may hold one."""
    inner = getattr(model, "module", None)
    holds = isinstance(inner, nn.Module) and recipe_of(inner) is not None
    hint = "it holds a student: pass its .module" if holds else "convert it first"
    return f"student ({type(model).__name__}) was not made by ghostify.convert: {hint}"


def _record_over(earlier: SiteRecord | None, planned: PlannedSite) -> SiteRecord:
    """The record of a site, where an earlier conversion may have converted it, or narrowed it from the sizes that it had."""
    record = _record(planned)
    if earlier is None or not (earlier.converted or earlier.absorbed):
        return record
    if earlier.converted or planned.ratio is None:
        return earlier
    sizes = {key: getattr(earlier, key) for key in ("in_channels", "out_channels", "dense_params")}
    return replace(record, absorbed=True, **sizes)


def _record(planned: PlannedSite) -> SiteRecord:
    site, module = planned.site, planned.site.module
    followers = [site.norm if site.norm_name else None, site.act if site.act_name else None]
    layers = [module, *(layer for layer in followers if layer is not None)]
    record = SiteRecord(
        name=site.name,
        kind=site.kind,
        layers=site.layers,
        in_channels=getattr(module, "in_channels", getattr(module, "in_features", 0)),
        out_channels=getattr(module, "out_channels", getattr(module, "out_features", 0)),
        kernel_size=tuple(getattr(module, "kernel_size", ())),
        groups=getattr(module, "groups", 1),
        dense_params=sum(p.numel() for layer in layers for p in layer.parameters()),
        first="first" in site.roles,
        tells_type=site.tells_type,
    )
    if planned.absorbed:
        record = replace(record, norm=site.norm_name, act=site.act_name, absorbed=True)
    if planned.ratio is None:
        return replace(record, reason=planned.reason)
    return replace(
        record,
        norm=site.norm_name,
        act=site.act_name,
        shared_act=site.shared_act,
        function=describe_activation(site.act) if site.act and not site.act_name and not site.shared_act else None,
        ratio=planned.ratio,
        intrinsic=planned.intrinsic,
        cheap=planned.cheap if site.kind == "conv" else "",
        dw_size=planned.dw_size if site.kind == "conv" and planned.cheap == "depthwise" else 0,
    )

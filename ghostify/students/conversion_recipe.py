"""The recipe: what a conversion did, as plain data that travels with the student."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import fx, nn

from ..common.files import PlainData
from ..common.pickling import named_by_package
from ..errors import ArgumentError
from ..graph.functions_as_modules import describe_activation
from ..surgery.planned import PlannedSite
from ..version import __version__

FORMAT = 1  # of recipes in files


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

    @property
    def converted(self) -> bool:
        return self.reason is None

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
class ConversionRecipe:
    """Everything needed to convert a fresh model of the same architecture in the same way, apart from weights.

    Attributes:
        config: settings of the conversion, as plain data.
        sites: a record of each site, converted or skipped.
        versions: versions of ghostify and torch that converted.
        format: version of this record's fields.
    """

    config: PlainData
    sites: tuple[SiteRecord, ...]
    versions: dict[str, str]
    format: int = FORMAT

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
            return cls(dict(data["config"]), records, dict(data["versions"]), data["format"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError(f"the recipe is damaged: {error}") from error


def make_recipe(plan: Sequence[PlannedSite], settings: PlainData, before: ConversionRecipe | None) -> ConversionRecipe:
    """The recipe of a plan; sites that an earlier conversion converted keep their record.

    Args:
        plan: the sites, and what becomes of each.
        settings: settings of the conversion, as plain data.
        before: recipe of the earlier conversion, where the network is a student already.
    """
    earlier = {r.name: r for r in before.sites} if before else {}
    records = earlier | {p.site.name: _record(p) for p in plan}
    sites = tuple(earlier[name] if name in earlier and earlier[name].converted else r for name, r in records.items())
    return ConversionRecipe(settings, sites, {"ghostify": __version__, "torch": str(torch.__version__)})


def attach_recipe(model: nn.Module, recipe: ConversionRecipe) -> None:
    """Make a network a student, which :func:`recipe_of` knows; copies and pickles keep the recipe."""
    model._ghostify_recipe = recipe  # type: ignore[assignment]
    if isinstance(model, fx.GraphModule):
        model.meta[_KEY] = recipe  # copying a GraphModule keeps this, and pickling it keeps the attribute


def recipe_of(model: nn.Module) -> ConversionRecipe | None:
    """The recipe of a student; None for any other model."""
    kept = model.meta.get(_KEY) if isinstance(model, fx.GraphModule) else None
    return kept or vars(model).get("_ghostify_recipe")


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
    )
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

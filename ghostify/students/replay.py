"""Convert a model as a recipe says: nothing is traced, planned or computed."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from ..common.random_state import cpu_by_default
from ..errors import ArgumentError, UnsupportedModelError
from ..graph.functions_as_modules import activation_from
from ..graph.sites import Site
from ..layers.cheap_conv import Cheap
from ..layers.convolution import is_transposed
from ..layers.layer_classes import Kind, channel_count, is_kind
from ..surgery.narrowing import channels_of, copied_layers, inputs_of, narrowed_layers, outputs_of
from ..surgery.planned import PlannedSite
from ..surgery.swap import make_swaps, rebased, swap
from .conversion_recipe import ConversionRecipe, SiteRecord, attach_recipe

M = TypeVar("M", bound=nn.Module)

OTHER = "the student was made of another network"


def replay(model: M, recipe: ConversionRecipe) -> M:
    """A copy of ``model`` converted as a recipe says, with weights that are yet to be loaded.

    Args:
        model: the original network, or another of the same architecture; it is not changed. On the meta device nothing is
            allocated.
        recipe: recipe of a student of this network.

    Raises:
        ArgumentError: the model lacks a layer of the recipe, or has another one in its place.
    """
    plan = [_planned(model, record) for record in recipe.sites if record.converted]
    check_spans(model, recipe, OTHER)
    narrowed = [record.narrowed() for record in recipe.narrowed]
    try:
        with torch.inference_mode(False), cpu_by_default():
            layers = copied_layers(narrowed_layers(dict(model.named_modules(remove_duplicate=False)), narrowed))
            student = swap(model, layers | make_swaps(rebased(plan, layers), init="random"), inplace=False)
    except UnsupportedModelError as error:
        raise ArgumentError(f"the recipe does not fit {type(model).__name__}: {error}") from error
    attach_recipe(student, recipe)
    return student


def check_spans(model: nn.Module, recipe: ConversionRecipe, otherwise: str) -> None:
    """Check that a network has the layers around the narrowed spans of a recipe, as wide as the original's were.

    Args:
        model: the original, or another network of its architecture.
        recipe: the recipe of a student.
        otherwise: what it means if it does not, for messages.

    Raises:
        ArgumentError: the model lacks a layer, or has one of another kind or size.
    """
    for record in recipe.narrowed:
        for name in record.makers:
            if outputs_of(_weighted(model, name, otherwise)) != record.channels:
                raise ArgumentError(f"{otherwise}: {name!r} gives no {record.channels} maps in this network")
        for name, offset, width in record.readers:
            if inputs_of(_weighted(model, name, otherwise)) < offset + record.channels * width:
                raise ArgumentError(f"{otherwise}: {name!r} reads fewer maps in this network")
        for name, offset, _ in record.carriers:
            carrier = _layer(model, name, otherwise=otherwise)
            if channel_count(carrier) is None or channels_of(carrier) < offset + record.channels:
                raise ArgumentError(f"{otherwise}: {name!r} carries fewer maps in this network")


def _weighted(model: nn.Module, name: str, otherwise: str) -> nn.Module:
    """The model's convolution or fully connected layer of this name.

    Raises:
        ArgumentError: there is none.
    """
    module = _layer(model, name, otherwise=otherwise)
    if not isinstance(module, nn.Linear) and not is_kind(module, "conv") and not is_transposed(module):
        raise ArgumentError(f"{otherwise}: {name!r} is a {type(module).__name__} in this network")
    return module


def _planned(model: nn.Module, record: SiteRecord) -> PlannedSite:
    """The plan of a site that was converted, with the model's own layers."""
    _check_layer(model, record)
    _check_numbers(record)
    try:
        shared = None if record.function is None else activation_from(record.function)
    except (KeyError, TypeError) as error:
        raise ArgumentError(f"the recipe is damaged: {record.function!r} is no activation") from error
    act = record.act if record.act is not None else record.shared_act
    site = Site(
        record.name,
        _layer(model, record.name),
        "conv" if record.kind == "conv" else "linear",
        record.norm,
        None if record.norm is None else _layer(model, record.norm, "norm"),
        record.act,
        shared if act is None else _layer(model, act, "activation"),
        record.shared_act,
        tells_type=record.tells_type,
    )
    return planned_as(record, site)


def planned_as(record: SiteRecord, site: Site) -> PlannedSite:
    """The plan that makes of a site what a record says.

    Args:
        record: of a site that was converted.
        site: the same site of the original, or of the original narrowed.
    """
    cheap: Cheap = "pointwise" if record.cheap == "pointwise" else "depthwise"
    return PlannedSite(as_recorded(record, site), record.ratio, record.intrinsic, cheap, record.dw_size or 3)


def as_recorded(record: SiteRecord, site: Site) -> Site:
    """A site without the norm and the activation behind it that its conversion left where they are."""
    if record.norm is None and site.norm is not None:
        site = replace(site, norm_name=None, norm=None)
    if record.act is None and record.shared_act is None and record.function is None and site.act is not None:
        site = replace(site, act_name=None, act=None, shared_act=None)
    return site


def _check_layer(model: nn.Module, record: SiteRecord) -> None:
    """Check that the model's layer has the kind and the sizes that the recipe knows.

    Raises:
        ArgumentError: the model has another layer there, or none.
    """
    module = _layer(model, record.name, "conv" if record.kind == "conv" else None)
    if record.kind != ("conv" if is_kind(module, "conv") else "linear" if isinstance(module, nn.Linear) else ""):
        raise ArgumentError(
            f"the student was made of another network: {record.name!r} is a {type(module).__name__} in this one"
        )
    ins, outs = ("in_channels", "out_channels") if record.kind == "conv" else ("in_features", "out_features")
    kernel = tuple(getattr(module, "kernel_size", ()))
    now = (getattr(module, ins), getattr(module, outs), kernel, getattr(module, "groups", 1))
    then = (record.in_channels, record.out_channels, record.kernel_size, record.groups)
    if now != then:
        raise ArgumentError(
            f"the student was made of another network: {record.name!r} has {now[0]} to {now[1]} channels, kernel {now[2]} and "
            f"{now[3]} groups in this one, and had {then[0]} to {then[1]}, {then[2]} and {then[3]}"
        )


def _layer(model: nn.Module, name: str, kind: Kind | None = None, otherwise: str = OTHER) -> nn.Module:
    """The model's module of this name.

    Raises:
        ArgumentError: there is no such module, or it is of another kind.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ArgumentError(f"{otherwise}: this one has no layer {name!r}") from error
    if kind is not None and not is_kind(module, kind):
        raise ArgumentError(f"the student was made of another network: {name!r} is a {type(module).__name__} in this one")
    return module


def _check_numbers(record: SiteRecord) -> None:
    """Check the numbers of a record, since a damaged file may claim what no conversion gives.

    Raises:
        ArgumentError: they are out of range.
    """
    most = min(record.in_channels, record.out_channels) if record.kind == "linear" else record.out_channels - 1
    in_range = type(record.intrinsic) is int and 1 <= record.intrinsic <= most and record.intrinsic % record.groups == 0
    if not in_range or record.cheap not in ("", "depthwise", "pointwise") or record.dw_size not in (0, 1, 3, 5, 7):
        raise ArgumentError(
            f"the recipe is damaged: {record.name!r} has {record.intrinsic!r} intrinsic channels of {record.out_channels}, "
            f"{record.cheap!r} ghosts and kernels of {record.dw_size!r}"
        )

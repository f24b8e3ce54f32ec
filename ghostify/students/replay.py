"""Convert a model as a recipe says: nothing is traced, planned or computed."""

from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import ArgumentError, UnsupportedModelError
from ..graph.activation_functions import activation_from
from ..graph.sites import Site
from ..layers.patterns import is_kind
from ..surgery.planned import PlannedSite
from ..surgery.swap import make_swaps, swap
from .recipe import ConversionRecipe, SiteRecord, attach_recipe

M = TypeVar("M", bound=nn.Module)


def replay(model: M, recipe: ConversionRecipe) -> M:
    """A copy of ``model`` converted as a recipe says, with weights that are yet to be loaded.

    Args:
        model: the original network, or another of the same architecture; it is not changed. On the meta device nothing is
            allocated.
        recipe: of the student.

    Raises:
        ArgumentError: the model lacks a layer of the recipe, or has another one in its place.
    """
    plan = [_planned(model, record) for record in recipe.sites if record.converted]
    try:
        with torch.inference_mode(False), torch.device("cpu"):
            student = swap(model, make_swaps(plan, init="random"), inplace=False)
    except UnsupportedModelError as error:
        raise ArgumentError(f"the recipe does not fit {type(model).__name__}: {error}") from error
    attach_recipe(student, recipe)
    return student


def _planned(model: nn.Module, record: SiteRecord) -> PlannedSite:
    module: Any = _layer(model, record.name, ("conv",) if record.kind == "conv" else ())
    if record.kind != ("conv" if is_kind(module, "conv") else "linear" if isinstance(module, nn.Linear) else ""):
        raise ArgumentError(
            f"the student was made of another network: {record.name!r} is a {type(module).__name__} in this one"
        )
    ins, outs = ("in_channels", "out_channels") if record.kind == "conv" else ("in_features", "out_features")
    own = (getattr(module, ins), getattr(module, outs), tuple(getattr(module, "kernel_size", ())), getattr(module, "groups", 1))
    told = (record.in_channels, record.out_channels, record.kernel_size, record.groups)
    if own != told:
        raise ArgumentError(
            f"the student was made of another network: {record.name!r} has {own[0]} to {own[1]} channels, kernel {own[2]} and "
            f"{own[3]} groups in this one, and had {told[0]} to {told[1]}, {told[2]} and {told[3]}"
        )
    _check_numbers(record)
    try:
        shared = None if record.function is None else activation_from(record.function)
    except (KeyError, TypeError) as error:
        raise ArgumentError(f"the recipe is damaged: {record.function!r} is no activation") from error
    act = record.act if record.act is not None else record.shared_act
    site = Site(
        record.name,
        module,
        "conv" if record.kind == "conv" else "linear",
        record.norm,
        None if record.norm is None else _layer(model, record.norm, ("norm",)),
        record.act,
        shared if act is None else _layer(model, act, ("activation",)),
        record.shared_act,
    )
    cheap: Any = record.cheap or "depthwise"
    return PlannedSite(site, record.ratio, record.intrinsic, cheap, record.dw_size or 3)


def _layer(model: nn.Module, name: str, kinds: tuple[Any, ...]) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ArgumentError(f"the student was made of another network: this one has no layer {name!r}") from error
    if kinds and not any(is_kind(module, kind) for kind in kinds):
        raise ArgumentError(f"the student was made of another network: {name!r} is a {type(module).__name__} in this one")
    return module


def _check_numbers(record: SiteRecord) -> None:
    """What no conversion gives, and a damaged file may claim."""
    most = min(record.in_channels, record.out_channels) if record.kind == "linear" else record.out_channels - 1
    fits = (
        type(record.intrinsic) is int and 1 <= record.intrinsic <= most and record.intrinsic % record.groups == 0
        and record.cheap in ("", "depthwise", "pointwise") and record.dw_size in (0, 1, 3, 5, 7)
    )  # fmt: skip
    if not fits:
        raise ArgumentError(
            f"the recipe is damaged: {record.name!r} has {record.intrinsic!r} intrinsic channels of {record.out_channels}, "
            f"{record.cheap!r} ghosts and kernels of {record.dw_size!r}"
        )

"""Checks of a student and its teacher, before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.calls import Arguments
from ..common.checks import check_finite, check_has_weights, check_is_module, check_is_not_student, check_model
from ..errors import ArgumentError
from ..graph.find_sites import find_sites, trace_layers
from ..graph.sites import Site
from ..layers.ghost_module import GhostModule
from ..layers.reduced_linear import ReducedLinear
from ..students.conversion_recipe import ConversionRecipe, SiteRecord, not_converted, recipe_of
from ..students.replay import as_recorded, check_spans
from ..surgery.narrowing import layers_around


@dataclass(frozen=True)
class Pair:
    """What is known of a student and its teacher once both are checked.

    Attributes:
        recipe: the student's.
        sites: the teacher's sites that the student converted, by name, in the order of the recipe.
    """

    recipe: ConversionRecipe
    sites: dict[str, Site]


def check_networks(student: nn.Module, teacher: nn.Module) -> ConversionRecipe:
    """The student's recipe, if the two are networks of which one can be the other's student.

    Raises:
        ArgumentError, ArgumentTypeError, UnsupportedModelError: one of them is not what it should be; the message says what
            differs.
    """
    for name, model in (("student", student), ("teacher", teacher)):
        check_is_module(name, model)
        check_model(model)
        check_has_weights(name, model)
    recipe = _check_roles(student, teacher)
    _check_precision(student, teacher)
    check_finite("teacher", teacher)
    _check_devices(student, teacher)
    return recipe


def check_pair(student: nn.Module, teacher: nn.Module, recipe: ConversionRecipe, arguments: Arguments | None = None) -> Pair:
    """The teacher's sites that the student converted, if the two belong together.

    Args:
        student, teacher: networks that :func:`check_networks` has passed.
        recipe: the student's.
        arguments: of a forward pass of both; None where none are known.

    Raises:
        ArgumentError: the teacher is not the student's original; the message says what differs.
    """
    known = {site.name: site for site in find_sites(teacher, trace_layers(teacher, arguments))}
    sites = {record.name: _original_site(record, known) for record in recipe.sites if record.converted}
    check_spans(teacher, recipe, "teacher is not the student's original")
    changed = {layer for record in recipe.narrowed for layer in layers_around(record.span)}
    _check_weights(student, teacher, changed.union(sites))
    return Pair(recipe, sites)


def _check_roles(student: nn.Module, teacher: nn.Module) -> ConversionRecipe:
    """The student's recipe; a student was converted, and a teacher was not."""
    recipe = recipe_of(student)
    if recipe is None:
        raise ArgumentError(not_converted(student))
    if not recipe.converts:
        raise ArgumentError("student must come from ghostify.convert: its conversion changed nothing")
    of_teacher = recipe_of(teacher)
    if any(isinstance(m, (GhostModule, ReducedLinear)) for m in teacher.modules()) or (of_teacher and of_teacher.narrowed):
        what = "absorbed ghosts" if of_teacher and of_teacher.narrowed else "Ghost modules"
        raise ArgumentError(
            f"teacher must be the original network: it has {what} itself (were the two given in the wrong order?)"
        )
    check_is_not_student(teacher, student)
    return recipe


def _check_precision(student: nn.Module, teacher: nn.Module) -> None:
    kinds = [
        " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}))
        for model in (student, teacher)
    ]
    if kinds[0] != kinds[1]:
        raise ArgumentError(f"student is of {kinds[0]}, teacher of {kinds[1]}: give both in one precision")


def _check_devices(student: nn.Module, teacher: nn.Module) -> None:
    devices = [{str(p.device) for p in model.parameters()} for model in (student, teacher)]
    if devices[0] != devices[1]:
        raise ArgumentError(f"student is on {', '.join(devices[0])}, teacher on {', '.join(devices[1])}")


def _original_site(record: SiteRecord, sites: Mapping[str, Site]) -> Site:
    """The teacher's site that a record of the student's recipe was made from."""
    site = sites.get(record.name)
    if site is None:
        raise ArgumentError(f"teacher is not the student's original: it has no layer {record.name!r}")
    module = site.module
    shape = tuple(
        getattr(module, of_conv, getattr(module, of_linear, None))
        for of_conv, of_linear in (("in_channels", "in_features"), ("out_channels", "out_features"))
    )
    kernel = tuple(getattr(module, "kernel_size", ()))
    if (*shape, kernel) != (record.in_channels, record.out_channels, record.kernel_size):
        raise ArgumentError(
            f"teacher is not the student's original: layer {record.name!r} is {shape[0]}→{shape[1]} {kernel}, "
            f"the student's was {record.in_channels}→{record.out_channels} {record.kernel_size}"
        )
    site = as_recorded(record, site)
    if (site.norm_name, site.act_name) != (record.norm, record.act):
        raise ArgumentError(f"teacher is not the student's original: layer {record.name!r} is followed by other layers")
    return site


def _check_weights(student: nn.Module, teacher: nn.Module, converted: set[str]) -> None:
    """Layers that were not converted must still have the teacher's weights or nearly so, some of them at least."""
    originals = dict(teacher.named_parameters())
    any_alike, different = False, ""
    for name, parameter in student.named_parameters():
        original = originals.get(name)
        if original is None or any(name.startswith(site + ".") for site in converted):
            continue
        if original.shape != parameter.shape:
            raise ArgumentError(
                f"teacher is not the student's original: {name!r} is {tuple(original.shape)}, "
                f"the student's {tuple(parameter.shape)}"
            )
        if parameter.dim() < 2:
            continue
        if _alike(original, parameter):
            any_alike = True
        else:
            different = different or name
    if different and not any_alike:
        raise ArgumentError(
            f"teacher is not the student's original: {different!r} has other weights, as has every layer that was not converted"
        )


def _alike(weight: Tensor, other: Tensor) -> bool:
    """Equal but for what a calibration or a training changes: weights of another network do not correlate at all."""
    return float(torch.cosine_similarity(weight.detach().flatten().double(), other.detach().flatten().double(), dim=0)) > 0.5

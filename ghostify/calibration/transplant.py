"""Bring what a calibrated copy has become into the student itself: all of it or nothing."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..common.copying import become, copy_layer, copy_swapped
from ..common.tensors import load_strictly, state_of
from ..layers.ghost_module import GhostModule
from ..students.conversion_recipe import ConversionRecipe, attach_recipe
from .report import SiteResult


def transplant(
    student: nn.Module,
    copy: nn.Module,
    results: Mapping[str, SiteResult],
    recipe: ConversionRecipe,
    kept: Mapping[str, Tensor],
) -> None:
    """Give the student the modules, values and recipe of its calibrated copy.

    Its module and parameter objects stay where their shapes do. Whatever interrupts this leaves the student as it was.

    Args:
        student: it is changed.
        copy: of the student, calibrated.
        results: of the sites, by name.
        recipe: the student's before the calibration.
        kept: the channels of the original that stay of what a narrower layer makes, by its name.
    """
    fitted = [name for name, result in results.items() if result.reason is None]
    modules = {name: copy_layer(student.get_submodule(name)) for name in fitted}
    state = {name: tensor.detach().clone() for name, tensor in state_of(student).items()}
    try:
        for name in fitted:
            replace_module(student, name, copy.get_submodule(name))
        _copy_state(student, state_of(copy))
        attach_recipe(student, _updated(recipe, copy, results, kept))
    except BaseException:  # an interruption included
        for name, module in modules.items():
            become(student.get_submodule(name), module)
        load_strictly(student, state)
        attach_recipe(student, recipe)
        raise


def replace_module(student: nn.Module, name: str, new: nn.Module) -> None:
    """Load a module's values into the one of that name, or make it into a copy of the other where shapes differ."""
    old = student.get_submodule(name)
    shapes = [{key: p.shape for key, p in module.named_parameters()} for module in (old, new)]
    if shapes[0] == shapes[1]:
        load_strictly(old, state_of(new))
        return
    trainable = next(old.parameters()).requires_grad
    replacement = copy_swapped(new, {}).train(old.training)
    for parameter in replacement.parameters():
        parameter.requires_grad_(trainable)
    become(old, replacement)


def _copy_state(student: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in state_of(student).items():
            tensor.copy_(values[name])


def _updated(
    recipe: ConversionRecipe, copy: nn.Module, results: Mapping[str, SiteResult], kept: Mapping[str, Tensor]
) -> ConversionRecipe:
    """The recipe with the cheap operations and the maps that the data decided on."""
    cheap = {name: result.cheap for name, result in results.items() if result.cheap not in ("", "absorbed")}
    spans = (
        replace(span, kept=tuple(kept[span.name].tolist())) if span.kept and span.name in kept else span
        for span in recipe.spans
    )
    records = (
        replace(record, cheap=cheap[record.name], dw_size=_dw_size(copy.get_submodule(record.name)))
        if record.name in cheap
        else record
        for record in recipe.sites
    )
    return replace(recipe, sites=tuple(records), spans=tuple(spans))


def _dw_size(module: nn.Module) -> int:
    """The size of a Ghost module's depthwise kernel; 0 where its cheap operation is pointwise."""
    assert isinstance(module, GhostModule)
    kernel = module.cheap_operation[0]
    assert isinstance(kernel, nn.modules.conv._ConvNd)
    return kernel.kernel_size[0] if module.cheap == "depthwise" else 0

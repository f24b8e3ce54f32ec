"""Checks of a student, its teacher and the images, before anything is computed."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..common.calls import Arguments, forward_hooks, run_checked
from ..common.checks import check_model
from ..errors import ArgumentError, ArgumentTypeError
from ..graph.find_sites import find_sites
from ..graph.sites import DEPTHWISE, Site
from ..layers.ghost_module import GhostModule
from ..layers.reduced_linear import ReducedLinear
from ..students.recipe import ConversionRecipe, recipe_of


def check_pair(student: nn.Module, teacher: nn.Module) -> tuple[ConversionRecipe, dict[str, Site], dict[str, Site]]:
    """The student's recipe, the teacher's sites that it converted, and other layers that may be refitted.

    Raises:
        ArgumentError: one of them is not what it should be; the message says what differs.
    """
    for name, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"{name} must be a torch.nn.Module, not {type(model).__name__}")
        check_model(model)
        if any(p.is_meta for p in model.parameters()):
            raise ArgumentError(f"{name} is on the meta device and has no weights")
    recipe = recipe_of(student)
    if recipe is None or not any(r.converted for r in recipe.sites):
        raise ArgumentError("student must come from ghostify.convert: it carries no record of a conversion")
    if any(isinstance(m, (GhostModule, ReducedLinear)) for m in teacher.modules()):
        raise ArgumentError(
            "teacher must be the original network: it has Ghost modules itself (were the two given in the wrong order?)"
        )
    if student is teacher:
        raise ArgumentError("teacher must be the original network, not the student itself")
    kinds = [
        " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}))
        for model in (student, teacher)
    ]
    if kinds[0] != kinds[1]:
        raise ArgumentError(f"student is of {kinds[0]}, teacher of {kinds[1]}: give both in one precision")
    for name, parameter in teacher.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ArgumentError(f"teacher has NaN or infinite weights in {name!r}")
    devices = [{str(p.device) for p in model.parameters()} for model in (student, teacher)]
    if devices[0] != devices[1]:
        raise ArgumentError(f"student is on {', '.join(devices[0])}, teacher on {', '.join(devices[1])}")
    sites = {site.name: site for site in find_sites(teacher)}
    wanted = {}
    for record in recipe.sites:
        if not record.converted:
            continue
        site = sites.get(record.name)
        if site is None:
            raise ArgumentError(f"teacher is not the student's original: it has no layer {record.name!r}")
        module = site.module
        shape = tuple(
            getattr(module, a, getattr(module, b, None))
            for a, b in (("in_channels", "in_features"), ("out_channels", "out_features"))
        )
        kernel = tuple(getattr(module, "kernel_size", ()))
        if (*shape, kernel) != (record.in_channels, record.out_channels, record.kernel_size):
            raise ArgumentError(
                f"teacher is not the student's original: layer {record.name!r} is {shape[0]}→{shape[1]} {kernel}, "
                f"the student's was {record.in_channels}→{record.out_channels} {record.kernel_size}"
            )
        if (site.norm_name, site.act_name) != (record.norm, record.act):
            raise ArgumentError(f"teacher is not the student's original: layer {record.name!r} is followed by other layers")
        wanted[record.name] = site
    _check_weights(student, teacher, set(wanted))
    dense = {name: site for name, site in sites.items() if name not in wanted and site.reason in (None, DEPTHWISE)}
    return recipe, wanted, dense


def _check_weights(student: nn.Module, teacher: nn.Module, converted: set[str]) -> None:
    """Layers that were not converted must still have the teacher's weights or nearly so, some of them at least."""
    theirs = dict(teacher.named_parameters())
    same, other = 0, ""
    for name, parameter in student.named_parameters():
        twin = theirs.get(name)
        if twin is None or any(name.startswith(site + ".") for site in converted):
            continue
        if twin.shape != parameter.shape:
            raise ArgumentError(
                f"teacher is not the student's original: {name!r} is {tuple(twin.shape)}, "
                f"the student's {tuple(parameter.shape)}"
            )
        if parameter.dim() < 2:
            continue
        if _alike(twin, parameter):
            same += 1
        else:
            other = other or name
    if other and not same:
        raise ArgumentError(
            f"teacher is not the student's original: {other!r} has other weights, as has every layer that was not converted"
        )


def _alike(weight: Tensor, other: Tensor) -> bool:
    """The same but for what a calibration or a training changes: weights of another network do not correlate at all."""
    return float(torch.cosine_similarity(weight.detach().flatten().double(), other.detach().flatten().double(), dim=0)) > 0.5


@torch.no_grad()
def check_range(teacher: nn.Module, call: Arguments, stacklevel: int = 5) -> list[str]:
    """Run the first batch, and compare what the teacher's first batch norm sees with what it saw in training."""
    seen: list[float] = []

    def note(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        if not seen and inputs[0].dim() > 2 and norm.running_var is not None and inputs[0].numel() > inputs[0].shape[1]:
            var = inputs[0].transpose(0, 1).flatten(1).float().var(1)
            live = norm.running_var > 1e-6 * norm.running_var.max()
            seen.append(float((var / norm.running_var)[live].median()))

    single: list[bool] = []

    def count(conv: Any, inputs: tuple[Tensor, ...]) -> None:
        single.extend(x.dim() < conv.weight.dim() for x in inputs[:1])  # none where it is called by keyword

    norms = [m for m in teacher.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    convs = [m for m in teacher.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    with forward_hooks(before=[*((norm, note) for norm in norms), *((conv, count) for conv in convs)]):
        run_checked(teacher, *call)
    if single and all(single):  # a network may itself take maps one by one somewhere
        raise ArgumentError("images are not batches (N, C, H, W) but single images: wrap them in a DataLoader, or stack them")
    if not seen or 1 / 8 < seen[0] < 8:
        return []
    told = f"the teacher's first batch norm sees {seen[0]:.2g} times the variance that it saw in training"
    if not 1 / 200 < seen[0] < 200:
        raise ArgumentError(
            f"images have another range than the teacher was trained with: {told}; preprocess them as for evaluation"
        )
    warnings.warn(f"images may lack the model's preprocessing: {told}", stacklevel=stacklevel)
    return [f"images may lack the model's preprocessing: {told}"]

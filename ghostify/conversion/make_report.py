"""report(): count params, FLOPs and activation memory of a student and of the original it was converted from."""

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from ..common.calls import PositionalArguments
from ..common.checks import check_choice, check_model
from ..common.copying import copy_swapped
from ..common.costs import Costs, count_params, measure
from ..common.counters import COUNTERS
from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.examples import as_arguments, example_input
from ..layers.convolution import as_weighted
from ..layers.ghost_module import GhostModule
from ..layers.layer_classes import lookup
from ..layers.reduced_linear import ReducedLinear
from ..students.conversion_recipe import ConversionRecipe, SiteRecord, recipe_of
from .report import Report, Row, Total
from .target import Budget


def report(student: nn.Module, example_input: object = None, counter: str = "torch") -> Report:
    """Say what :func:`ghostify.convert` saved on a model.

    FLOPs are multiply-adds of convolutions, linear layers and matrix products, attention included, whoever counts.

    Args:
        student: a converted model; it is not changed.
        example_input: a tensor, a shape such as ``(1, 3, 224, 224)``, or a tuple of forward arguments. Not needed for
            models of timm and torchvision; without it, a model of your own is reported without FLOPs.
        counter: who counts FLOPs. ``"torch"``: ``torch.utils.flop_counter``, halved, as it counts a multiply and an add as two;
            networks on the meta device have theirs counted, too. ``"fvcore"``: the handlers of fvcore, an independent count
            on a trace of the model, which must have values. Memory is measured in the same way with both.

    Raises:
        ArgumentError: the model was not converted, or does not accept the input; another counter; or fvcore is asked for and
            the model is on the meta device or can't be traced.
    """
    check_choice("counter", counter, tuple(COUNTERS))
    recipe = _recipe(student)
    arguments = _arguments(student, example_input)
    costs = None if arguments is None else COUNTERS[counter](student, arguments, [record.name for record in recipe.sites])
    rows = _rows(student, recipe, costs)
    params = count_params(student)
    params_before = params + sum(row.params_before - row.params_after for row in rows)
    name = type(student).__name__
    planned = recipe.config.get("budget")
    budget = None if planned is None else str(Budget(**planned))
    if costs is None or arguments is None:
        return Report(name, None, rows, Total(params_before, None, None), Total(params, None, None), None, budget)
    saved = sum((row.flops_before or 0) - (row.flops_after or 0) for row in rows)
    dense = measure(_dense_twin(student, recipe), arguments)
    return Report(
        model=name,
        input=tuple(tuple(t.shape) for t in tree_leaves(arguments) if isinstance(t, torch.Tensor)),
        rows=rows,
        before=Total(params_before, costs.flops + saved, dense.activation_bytes),
        after=Total(params, costs.flops, costs.activation_bytes),
        reached=_reached(recipe, rows),
        budget=budget,
    )


def _recipe(student: nn.Module) -> ConversionRecipe:
    """The record of the conversion.

    Raises:
        ArgumentError, ArgumentTypeError: the student is no module, or was not converted.
    """
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a module that ghostify.convert returned, not {type(student).__name__}")
    check_model(student)
    recipe = recipe_of(student)
    if recipe is None:
        raise ArgumentError(f"student ({type(student).__name__}) was not made by ghostify.convert: convert it first")
    return recipe


def _arguments(student: nn.Module, example: object) -> PositionalArguments | None:
    return example_input(student) if example is None else as_arguments(student, example)


def _dense_twin(student: nn.Module, recipe: ConversionRecipe) -> nn.Module:
    """The original's structure, rebuilt from the student's own layers, with values of no meaning."""
    swaps: dict[nn.Module, nn.Module] = {}
    for record in recipe.sites:
        module = student.get_submodule(record.name)
        if not record.converted:
            continue
        if isinstance(module, GhostModule):
            channels = torch.zeros(module.out_channels, dtype=torch.long, device="cpu")
            layers = [_widen(layer, channels) for layer in module.primary_conv]
            if isinstance(student, fx.GraphModule):  # its graph calls the convolution's name alone
                swaps[module] = nn.Sequential(*layers)
                continue
            names = [record.name, *(name for name in (record.norm, record.act) if name is not None)]
            swaps.update((student.get_submodule(name), layer) for name, layer in zip(names, layers, strict=True))
        elif isinstance(module, ReducedLinear):
            size, bias = (module.in_features, module.out_features), module.expand.bias is not None
            weight = module.expand.weight
            swaps[module] = nn.Linear(*size, bias, device=weight.device, dtype=weight.dtype)
    return copy_swapped(student, swaps)


def _widen(layer: nn.Module, channels: torch.Tensor) -> nn.Module:
    pattern = lookup(layer)
    return layer if pattern is None else pattern.narrow(layer, channels)


def _rows(student: nn.Module, recipe: ConversionRecipe, costs: Costs | None) -> tuple[Row, ...]:
    rows = []
    for record in recipe.sites:
        layer = student.get_submodule(record.name)
        positions = None if costs is None else costs.positions.get(record.name, 0)
        now = _per_position(record, layer)
        once = record.dense_per_position if record.converted else now
        rows.append(
            Row(
                name=record.name,
                kind=record.kind,
                layers=record.layers,
                in_channels=record.in_channels,
                out_channels=record.out_channels,
                kernel_size=record.kernel_size,
                ratio=record.ratio,
                cheap=record.cheap,
                intrinsic=record.intrinsic,
                params_before=record.dense_params,
                params_after=count_params(layer) if record.converted else record.dense_params,
                flops_before=None if positions is None else positions * once,
                flops_after=None if positions is None else positions * now,
                reason=record.reason,
            )
        )
    return tuple(rows)


def _per_position(record: SiteRecord, layer: nn.Module) -> int:
    """Multiply-adds of what stands at a site now, for each output position: one for each weight."""
    if isinstance(layer, GhostModule):
        return sum(as_weighted(chain[0]).weight.numel() for chain in (layer.primary_conv, layer.cheap_operation))
    if isinstance(layer, ReducedLinear):
        return layer.reduce.weight.numel() + layer.expand.weight.numel()
    return record.dense_per_position


def _reached(recipe: ConversionRecipe, rows: tuple[Row, ...]) -> float | None:
    dense = [
        (record.converted, row.flops_before or 0)
        for record, row in zip(recipe.sites, rows, strict=True)
        if record.kind == "conv" and not record.first and not record.depthwise
    ]
    total = sum(flops for _, flops in dense)
    return sum(flops for converted, flops in dense if converted) / total if total else None

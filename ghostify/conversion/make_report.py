"""report(): count params, FLOPs and activation memory of a student and of the original it was converted from."""

from collections.abc import Sequence

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
from ..layers.convolution import as_convolution, as_weighted
from ..layers.ghost_module import GhostModule
from ..layers.layer_classes import lookup
from ..layers.reduced_linear import ReducedLinear
from ..students.conversion_recipe import ConversionRecipe, SiteRecord, not_converted, recipe_of
from ..surgery.narrowing import inputs_of, outputs_of, widened_layers
from .report import Report, Total
from .report_rows import Row, SpanRow
from .target import Budget


def report(student: nn.Module, example_input: object = None, counter: str = "torch") -> Report:
    """Say what :func:`ghostify.convert` saved on a model: a row for each layer, and the spans of absorbed ghosts.

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
    params, dense_twin = count_params(student), _dense_twin(student, recipe)
    params_before = count_params(dense_twin)
    spans = _span_rows(recipe, rows)
    name = type(student).__name__
    planned = recipe.config.get("budget")
    budget = None if planned is None else str(Budget(**planned))
    if costs is None or arguments is None:
        totals = Total(params_before, None, None), Total(params, None, None)
        return Report(name, None, rows, *totals, None, budget, spans, verified=recipe.verified or None)
    saved = sum((row.flops_before or 0) - (row.flops_after or 0) for row in rows)
    dense = measure(dense_twin, arguments)
    return Report(
        model=name,
        input=tuple(tuple(t.shape) for t in tree_leaves(arguments) if isinstance(t, torch.Tensor)),
        rows=rows,
        before=Total(params_before, costs.flops + saved, dense.activation_bytes),
        after=Total(params, costs.flops, costs.activation_bytes),
        reached=_reached(recipe, rows, costs.outside),
        budget=budget,
        spans=spans,
        outside=costs.outside,
        verified=recipe.verified or None,
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
        raise ArgumentError(not_converted(student))
    return recipe


def _arguments(student: nn.Module, example: object) -> PositionalArguments | None:
    return example_input(student) if example is None else as_arguments(student, example)


def _dense_twin(student: nn.Module, recipe: ConversionRecipe) -> nn.Module:
    """The original's structure, rebuilt from the student's own layers, with values of no meaning.

    Layers that were taken out of the student after its conversion, such as norms that Ultralytics fuses, are not in it.
    """
    modules = dict(student.named_modules(remove_duplicate=False))
    dense: dict[str, nn.Module] = {}
    chains: dict[str, list[nn.Module]] = {}  # of what stands in one Ghost module's place where a graph calls one name alone
    for record in recipe.sites:
        module = modules[record.name]
        if not record.converted:
            continue
        if isinstance(module, GhostModule):
            channels = torch.zeros(module.out_channels, dtype=torch.long, device="cpu")
            layers = [_widen(layer, channels) for layer in module.primary_conv]
            if isinstance(student, fx.GraphModule):
                dense[record.name], chains[record.name] = layers[0], layers[1:]
                continue
            names = [record.name, *(name for name in (record.norm, record.act) if name is not None)]
            dense.update(zip(names, layers, strict=True))
        elif isinstance(module, ReducedLinear):
            size, bias = (module.in_features, module.out_features), module.expand.bias is not None
            weight = module.expand.weight
            dense[record.name] = nn.Linear(*size, bias, device=weight.device, dtype=weight.dtype)
    narrowed = [(record.span, len(record.kept)) for record in recipe.narrowed]
    dense |= widened_layers(modules | dense, narrowed)
    dense |= {name: nn.Sequential(dense[name], *rest) for name, rest in chains.items()}
    return copy_swapped(student, {modules[name]: layer for name, layer in dense.items() if name in modules})


def _widen(layer: nn.Module, channels: torch.Tensor) -> nn.Module:
    pattern = lookup(layer)
    return layer if pattern is None else pattern.narrow(layer, channels)


def _rows(student: nn.Module, recipe: ConversionRecipe, costs: Costs | None) -> tuple[Row, ...]:
    rows = []
    for record in recipe.sites:
        layer = student.get_submodule(record.name)
        positions = None if costs is None else costs.positions.get(record.name, 0)
        now = _per_position(record, layer)
        sizes = _sizes(record, layer)
        once = record.dense_per_position if record.converted or record.absorbed else now
        rows.append(
            Row(
                name=record.name,
                kind=record.kind,
                layers=record.layers,
                in_channels=record.in_channels,
                out_channels=record.out_channels,
                kernel_size=record.kernel_size,
                ratio=record.ratio,
                cheap=record.cheap if record.converted else "absorbed" if record.absorbed else "",
                intrinsic=record.intrinsic,
                params_before=record.dense_params,
                params_after=_params_now(student, record),
                flops_before=None if positions is None else positions * once,
                flops_after=None if positions is None else positions * now,
                reason=record.reason,
                in_channels_after=sizes[0],
                out_channels_after=sizes[1],
            )
        )
    return tuple(rows)


def _params_now(student: nn.Module, record: SiteRecord) -> int:
    if record.converted:
        return count_params(student.get_submodule(record.name))
    if not record.absorbed:
        return record.dense_params
    names = [record.name, *(name for name in (record.norm, record.act) if name is not None)]
    return sum(count_params(student.get_submodule(name)) for name in names)


def _sizes(record: SiteRecord, layer: nn.Module) -> tuple[int, int]:
    """Input and output channels of what stands at a site now."""
    if not record.absorbed:
        return record.in_channels, record.out_channels
    if isinstance(layer, GhostModule):
        return as_convolution(layer.primary_conv[0]).in_channels, layer.out_channels
    return inputs_of(layer), outputs_of(layer)


def _per_position(record: SiteRecord, layer: nn.Module) -> int:
    """Multiply-adds of what stands at a site now, for each output position: one for each weight."""
    if isinstance(layer, GhostModule):
        return sum(as_weighted(chain[0]).weight.numel() for chain in (layer.primary_conv, layer.cheap_operation))
    if isinstance(layer, ReducedLinear):
        return layer.reduce.weight.numel() + layer.expand.weight.numel()
    return as_weighted(layer).weight.numel() if record.absorbed else record.dense_per_position


def _reached(recipe: ConversionRecipe, rows: tuple[Row, ...], outside: int) -> float | None:
    """The share of the original's dense convolutions, by multiply-adds, that was converted.

    Args:
        recipe, rows: the sites.
        outside: multiply-adds of convolutions that are no sites.
    """
    dense = [
        (record.converted or record.absorbed, row.flops_before or 0)
        for record, row in zip(recipe.sites, rows, strict=True)
        if record.kind == "conv" and not record.first and not record.depthwise
    ]
    total = sum(flops for _, flops in dense) + outside
    return sum(flops for converted, flops in dense if converted) / total if total else None


def _span_rows(recipe: ConversionRecipe, rows: Sequence[Row]) -> tuple[SpanRow, ...]:
    """A row for each span of a student, given the rows of its layers."""
    by_name = {row.name: row for row in rows}
    spans = []
    for record in recipe.spans:
        carriers, readers = (tuple(name for name, _, _ in uses) for uses in (record.carriers, record.readers))
        around = [by_name[name] for name in dict.fromkeys((*record.makers, *readers)) if name in by_name]
        spans.append(
            SpanRow(
                record.name,
                record.makers,
                carriers,
                readers,
                record.channels,
                len(record.kept) or record.channels,
                sum(row.params_before for row in around),
                sum(row.params_after for row in around),
                _sum([row.flops_before for row in around]),
                _sum([row.flops_after for row in around]),
                record.reason,
            )
        )
    return tuple(spans)


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None

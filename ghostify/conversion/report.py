"""report(): what a conversion saved, per site and in total, and what was skipped and why."""

import html
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from ..common.checks import check_model
from ..common.copying import copy_swapped
from ..common.costs import Costs, count_params, measure
from ..common.text import plain
from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.examples import as_arguments, example_input
from ..layers.ghost_module import GhostModule
from ..layers.patterns import lookup
from ..layers.reduced_linear import ReducedLinear
from ..students.recipe import ConversionRecipe, SiteRecord, recipe_of
from .target import Budget

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

UNIT = "FLOPs are multiply-adds of convolutions, linear layers and matrix products, for one input."


@dataclass(frozen=True)
class Row:
    """One site. FLOPs are None where no input is known; ``reason`` says why a site was skipped."""

    name: str
    kind: str
    layers: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    ratio: float | None
    cheap: str
    intrinsic: int
    params_before: int
    params_after: int
    flops_before: int | None
    flops_after: int | None
    reason: str | None

    @property
    def shape(self) -> str:
        """``in → out, kernel`` in one word, such as ``64→128 3x3``."""
        kernel = "x".join(map(str, self.kernel_size))
        return f"{self.in_channels}→{self.out_channels} {kernel}".rstrip()


@dataclass(frozen=True)
class Total:
    """Of the whole model. ``activation_bytes`` is the most that intermediate tensors take up at one time in inference."""

    params: int
    flops: int | None
    activation_bytes: int | None


@dataclass(frozen=True)
class Report:
    """What a conversion saved; made by :func:`report`.

    Attributes:
        model: class name.
        input: shapes of the input that FLOPs are counted for; None where none is known.
        rows: the sites in execution order.
        before, after: totals of the original and of the student.
        reached: share of the FLOPs of dense convolutions, the first aside, that were converted, 0 to 1.
        budget: what a ``target`` came to, and what it could have been.
    """

    model: str
    input: tuple[tuple[int, ...], ...] | None
    rows: tuple[Row, ...]
    before: Total
    after: Total
    reached: float | None
    budget: str | None = None

    @property
    def converted(self) -> list[Row]:
        return [row for row in self.rows if row.reason is None]

    @property
    def skipped(self) -> dict[str, list[str]]:
        """Names of the sites that stayed dense, by reason."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason is not None:
                reasons.setdefault(row.reason, []).append(row.name)
        return reasons

    def to_frame(self) -> "pd.DataFrame":
        """A DataFrame with a row for each site."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("name")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that :meth:`to_json` wrote.

        Raises:
            ArgumentError: the text is no report.
        """
        try:
            data = json.loads(text)
            rows = tuple(Row(**{**row, "kernel_size": tuple(row["kernel_size"])}) for row in data.pop("rows"))
            shapes = data.pop("input")
            shapes = None if shapes is None else tuple(map(tuple, shapes))
            before, after = Total(**data.pop("before")), Total(**data.pop("after"))
            return cls(rows=rows, input=shapes, before=before, after=after, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArgumentError(f"text is not a report that to_json wrote: {error}") from error

    def to_markdown(self) -> str:
        """The table of sites and the totals in Markdown."""
        header = "| " + " | ".join(_HEADER) + " |\n|" + " --- |" * len(_HEADER)
        body = ["| " + " | ".join(cells) + " |" for cells in self._table()]
        return "\n".join([header, *body, "", *(f"{line}  " for line in self._summary())])

    def to_html(self) -> str:
        """The table of sites and the totals as an HTML fragment."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in _HEADER)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in self._table())
        lines = "<br>".join(html.escape(line) for line in self._summary())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{lines}</p>"

    _repr_html_ = to_html

    def plot(self, metric: str = "flops", ax: "Axes | None" = None) -> "Axes":
        """Bars for each site in execution order: the original behind, the student before it; dense sites have one colour.

        Args:
            metric: ``"flops"`` or ``"params"``.
            ax: axes to draw into; a new figure otherwise.

        Raises:
            ArgumentError: another metric, or FLOPs of a report that has none.
        """
        from ..common.figures import paired_bars

        if metric not in ("flops", "params"):
            raise ArgumentError(f"metric must be 'flops' or 'params', not {metric!r}")
        before = [getattr(row, f"{metric}_before") for row in self.rows]
        if None in before:
            raise ArgumentError("this report has no FLOPs: give ghostify.report an example_input, or plot metric='params'")
        return paired_bars(
            before,
            [getattr(row, f"{metric}_after") if row.reason is None else 0 for row in self.rows],
            ("original", "student"),
            title=f"{self.model}: {len(self.converted)} of {len(self.rows)} sites converted",
            ylabel="FLOPs (multiply-adds)" if metric == "flops" else "params",
            ax=ax,
        )

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for position, title in enumerate(_HEADER):
            table.add_column(title, justify="right" if 3 <= position <= 5 else "left", overflow="fold")
        for cells in self._table():
            table.add_row(*cells)
        return Group(table, "", *self._summary())

    def __str__(self) -> str:
        return plain(self, width=140)

    def _table(self) -> list[tuple[str, ...]]:
        return [
            (
                row.name, row.layers, row.shape, f"{row.ratio:g}" if row.ratio else "dense",
                _change(row.params_before, row.params_after), _change(row.flops_before, row.flops_after),
                row.reason or row.cheap,
            )
            for row in self.rows
        ]  # fmt: skip

    def summary(self) -> str:
        """The totals, a line each."""
        return "\n".join(self._summary())

    def _summary(self) -> list[str]:
        before, after = self.before, self.after
        lines = [
            f"{self.model}: {len(self.converted)} of {len(self.rows)} sites converted",
            f"params      {_change(before.params, after.params)}  ({before.params / max(1, after.params):.2f}x fewer)",
        ]
        if self.budget is not None:
            lines.append(f"budget      {self.budget}")
        if before.flops is None or after.flops is None:
            return [*lines, "FLOPs       not counted: give report an example_input"]
        lines.append(f"FLOPs       {_change(before.flops, after.flops)}  ({before.flops / max(1, after.flops):.2f}x fewer)")
        lines.append(f"activations {_change(before.activation_bytes, after.activation_bytes)}B at most at one time")
        if self.reached is not None:
            lines.append(f"reached     {self.reached:.1%} of the FLOPs of dense convolutions, the first aside")
        shapes = " and ".join("x".join(map(str, shape)) for shape in self.input or ())
        return [*lines, f"{UNIT} Input: {shapes}."]


def report(student: nn.Module, example_input: Any = None) -> Report:
    """Say what :func:`ghostify.convert` saved on a model.

    Args:
        student: a converted model; it is not changed.
        example_input: a tensor, a shape such as ``(1, 3, 224, 224)``, or a tuple of forward arguments. Not needed for
            models of timm and torchvision; without it, a model of your own is reported without FLOPs.

    Raises:
        ArgumentError: the model was not converted, or does not accept the input.
    """
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a module that ghostify.convert returned, not {type(student).__name__}")
    check_model(student)
    recipe = recipe_of(student)
    if recipe is None:
        raise ArgumentError(f"student ({type(student).__name__}) was not made by ghostify.convert: convert it first")
    arguments = _arguments(student, example_input)
    costs = None if arguments is None else measure(student, arguments, [record.name for record in recipe.sites])
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


def _arguments(student: nn.Module, given: Any) -> tuple[Any, ...] | None:
    return example_input(student) if given is None else as_arguments(student, given)


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
                record.name, record.kind, record.layers, record.in_channels, record.out_channels, record.kernel_size,
                record.ratio, record.cheap, record.intrinsic,
                record.dense_params, count_params(layer) if record.converted else record.dense_params,
                None if positions is None else positions * once,
                None if positions is None else positions * now,
                record.reason,
            )
        )  # fmt: skip
    return tuple(rows)


def _per_position(record: SiteRecord, layer: nn.Module) -> int:
    """Multiply-adds of what stands at a site now, for each output position: one for each weight."""
    if isinstance(layer, GhostModule):
        convolutions: list[Any] = [layer.primary_conv[0], layer.cheap_operation[0]]
        return sum(conv.weight.numel() for conv in convolutions)
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


_HEADER = ("site", "layers", "shape", "ratio", "params", "FLOPs", "cheap operation, or why dense")


def _change(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "-"
    return _short(before) if before == after else f"{_short(before)} → {_short(after)}"


def _short(number: int) -> str:
    """1234567 as 1.23M."""
    value = float(number)
    for suffix in ("", "k", "M", "G", "T"):
        if value < 999.5 or suffix == "T":
            return f"{value:.0f}" if not suffix else f"{value:.3g}{suffix}"
        value /= 1000
    return str(number)

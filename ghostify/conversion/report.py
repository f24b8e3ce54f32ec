"""What a conversion saved, per site and in total, and what was skipped and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ..common.report import ReportBase, TextTable
from ..errors import ArgumentError
from .report_rows import Row, SpanRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNIT = "FLOPs are multiply-adds of convolutions, linear layers and matrix products, for one input."


@dataclass(frozen=True)
class Total:
    """Totals of a model. ``activation_bytes`` is the most that intermediate tensors take up at one time in inference."""

    params: int
    flops: int | None
    activation_bytes: int | None


@dataclass(frozen=True)
class Report(ReportBase):
    """What a conversion saved, as :func:`ghostify.report` says.

    Attributes:
        model: class name of the student.
        input: shapes of the input that FLOPs are counted for; None where none is known.
        rows: the sites in execution order.
        before, after: totals of the original and of the student.
        reached: share of the FLOPs of dense convolutions, the first aside, that were converted, 0 to 1. All that the network
            computes count, whether or not they are layers of it.
        budget: what a ``target`` came to, and what it could have been.
        spans: the maps between layers, of which some may be absorbed by the layers that read them, each with the number of maps
            that stay, or the reason why all do; ``pandas.DataFrame(report.spans)`` is a table. Empty without absorbed ghosts.
        outside: FLOPs of dense convolutions that are no layers of the network, and so never sites: called as functions, or of
            modules that are not registered.
        verified: ``"verified on 2x3x64x64"``, where the original gave the same outputs on such an input with dense layers in
            the places of the new ones; ``"not verified: ..."`` with the reason where that could not be tried; None of students
            that are older than this check.
    """

    index = "name"
    width = 140

    model: str
    input: tuple[tuple[int, ...], ...] | None
    rows: tuple[Row, ...]
    before: Total
    after: Total
    reached: float | None
    budget: str | None = None
    spans: tuple[SpanRow, ...] = ()
    outside: int = 0
    verified: str | None = None

    @property
    def converted(self) -> list[Row]:
        """The rows of the sites that were converted."""
        return [row for row in self.rows if row.reason is None]

    @property
    def skipped(self) -> dict[str, list[str]]:
        """Names of the sites that stayed dense, by reason."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason is not None:
                reasons.setdefault(row.reason, []).append(row.name)
        return reasons

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
            spans = tuple(_span_row(span) for span in data.pop("spans", ()))
            return cls(rows=rows, input=shapes, before=before, after=after, spans=spans, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArgumentError(f"text is not a report that to_json wrote: {error}") from error

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

    def _records(self) -> Sequence[Mapping[str, object]]:
        return [asdict(row) for row in self.rows]

    def _columns(self) -> Sequence[str]:
        return [field.name for field in fields(Row)]

    def _table(self) -> TextTable:
        spans = {name: span for span in self.spans for name in span.makers}
        absorbed = {name: span for span in self.spans if span.reason is None for name in (*span.readers, *span.carriers)}
        rows = [_cells(row, spans.get(row.name), absorbed.get(row.name)) for row in self.rows]
        ghosts = not self.spans or any(row.ratio for row in self.rows)
        last = "cheap operation, or why dense" if ghosts else "its span, or why dense"
        return TextTable((*_TITLES, last), rows, right=(3, 4, 5), fold=True)

    def summary(self) -> str:
        """The totals, a line each."""
        before, after = self.before, self.after
        lines = [
            f"{self.model}: {len(self.converted)} of {len(self.rows)} sites converted",
            f"params      {_change(before.params, after.params)}  ({before.params / max(1, after.params):.2f}x fewer)",
        ]
        if self.spans:
            narrowed = [span for span in self.spans if span.reason is None]
            lines.append(
                f"spans       {len(narrowed)} of {len(self.spans)} narrowed: their other maps are absorbed by their readers"
            )
        if self.verified is not None:
            lines.append(f"rehearsal   {self.verified}")
        if self.budget is not None:
            lines.append(f"budget      {self.budget}")
        if before.flops is None or after.flops is None:
            return "\n".join([*lines, "FLOPs       not counted: give report an example_input"])
        lines.append(f"FLOPs       {_change(before.flops, after.flops)}  ({before.flops / max(1, after.flops):.2f}x fewer)")
        lines.append(f"activations {_change(before.activation_bytes, after.activation_bytes)}B at most at one time")
        if self.reached is not None:
            apart = f"; {_short(self.outside)} are of convolutions that are no layers, as F.conv2d" if self.outside else ""
            lines.append(f"reached     {self.reached:.1%} of the FLOPs of dense convolutions, the first aside{apart}")
        shapes = " and ".join("x".join(map(str, shape)) for shape in self.input or ())
        return "\n".join([*lines, f"{UNIT} Input: {shapes}."])


_TITLES = ("site", "layers", "shape", "ratio", "params", "FLOPs")


def _cells(row: Row, made: SpanRow | None, read: SpanRow | None) -> tuple[str, ...]:
    """The texts of a row, given the spans whose maps the layer makes, and reads or carries."""
    ratio = f"{row.ratio:g}" if row.ratio else "absorbed" if row.cheap == "absorbed" else "dense"
    params = _change(row.params_before, row.params_after)
    flops = _change(row.flops_before, row.flops_after)
    what = row.reason or (_absorbed(row.name, made, read) if row.cheap == "absorbed" else row.cheap)
    return row.name, row.layers, row.shape, ratio, params, flops, what


def _absorbed(name: str, made: SpanRow | None, read: SpanRow | None) -> str:
    """At which layers the spans end that a layer makes, and reads or carries; its shape tells how many maps stay."""
    parts = []
    if made is not None and made.reason is None:
        others = f" and {len(made.readers) - 1} more" if len(made.readers) > 1 else ""
        parts.append(f"read by {made.readers[0]}{others}")
    if read is not None:
        parts.append(f"{'reads' if name in read.readers else 'carries'} {read.name}")
    return "; ".join(parts)


def _span_row(data: dict[str, Any]) -> SpanRow:
    lists = {key: tuple(data[key]) for key in ("makers", "carriers", "readers")}
    return SpanRow(**{**data, **lists})


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

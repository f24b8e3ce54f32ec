"""The trials of a sweep: a table, its Pareto front, plots, a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.checks import check_choice
from ..common.files import also_write
from ..common.report import ReportBase
from ..common.text import first_line
from ..conversion.target import Target
from ..errors import ArgumentError, ArgumentTypeError
from .trial import Trial, TrialResult

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COST_NAMES = {"flops": "FLOPs (multiply-adds)", "params": "params", "latency": "latency of one input"}

COSTS = tuple(COST_NAMES)

_FIGURES = tuple(f.name for f in fields(TrialResult) if f.name not in ("settings", "format"))


@dataclass(frozen=True)
class SweepResult(ReportBase):
    """The trials of a sweep; made by :func:`ghostify.sweep`, or read from its folder by :meth:`load`.

    Attributes:
        results: one for each trial, the originals among them, in order of their settings.
        unreadable: names of files that hold no result, with the reason; the files stay where they are.
    """

    indent = 1

    results: tuple[TrialResult, ...]
    unreadable: dict[str, str]

    @classmethod
    def load(cls, out: str | Path) -> "SweepResult":
        """Read the folder of a sweep.

        Raises:
            ArgumentError: there is no sweep.
        """
        folder = Path(out)
        if not (folder / "sweep.json").is_file():
            raise ArgumentError(f"{str(folder)!r} is no folder of a sweep: it has no sweep.json")
        results, unreadable = [], {}
        for path in sorted((folder / "trials").glob("*/trial.json")):
            try:
                results.append(TrialResult.from_json(path.read_text()))
            except (OSError, ValueError) as error:
                unreadable[str(path.relative_to(folder))] = first_line(error)
        return cls(tuple(sorted(results, key=_order)), unreadable)

    def named(self, include_failed: bool = True) -> set[str]:
        """Names of the trials that are done."""
        return {Trial(result.settings).name for result in self.results if include_failed or result.error is None}

    @property
    def metric(self) -> str:
        """What trials are judged by: ``"top1"``, or ``"agreement"`` with the original where there were no labels."""
        return "top1" if any(result.top1 is not None for result in self.results) else "agreement"

    @property
    def failed(self) -> list[TrialResult]:
        """The results that are errors."""
        return [result for result in self.results if result.error is not None]

    def _records(self) -> Sequence[Mapping[str, object]]:
        settings = self._settings()
        return [
            {key: _cell(result.settings.get(key)) for key in settings} | {key: getattr(result, key) for key in _FIGURES}
            for result in self.results
        ]

    def _columns(self) -> Sequence[str]:
        return [*self._settings(), *_FIGURES]

    def _settings(self) -> list[str]:
        return list(dict.fromkeys(key for result in self.results for key in result.settings))

    def pareto(self, cost: str = "flops") -> "pd.DataFrame":
        """The trials that no other beats: none costs as little and is better, cheapest first.

        Args:
            cost: ``"flops"``, ``"params"`` or ``"latency"``.
        """
        check_choice("cost", cost, COSTS)
        frame = self.to_frame().dropna(subset=[cost, self.metric])
        frame = frame.sort_values([cost, self.metric], ascending=[True, False], kind="stable")
        return frame[frame[self.metric] > frame[self.metric].cummax().shift(fill_value=float("-inf"))]

    def best(self, **limits: float | str) -> TrialResult:
        """The best trial within limits, such as ``best(flops_share=0.5)`` or ``best(params="5M", latency="10ms")``; of equals
        the one with fewest FLOPs. Where the original keeps to them, it may be that.

        Raises:
            ArgumentError: a limit on something that there is not, or no trial within them.
        """
        most_of = {name: _limit(name, value) for name, value in limits.items()}
        fitting = [
            result
            for result in self.results
            if getattr(result, self.metric) is not None
            and all((getattr(result, name) or 0) <= most for name, most in most_of.items())
        ]
        if not fitting and all(result.error for result in self.results):
            raise ArgumentError("no trial has succeeded")
        if not fitting:
            raise ArgumentError(f"no trial keeps to {', '.join(f'{name} <= {most:g}' for name, most in most_of.items())}")
        return max(fitting, key=lambda result: (getattr(result, self.metric), -(result.flops or 0)))

    def plot(self, cost: str = "flops", by: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Accuracy against cost: a point for each trial, a line through the Pareto front, a star for the original.

        Args:
            cost: ``"flops"``, ``"params"`` or ``"latency"``.
            by: the setting that colours tell; None for the model where there are several.
            ax: axes to draw into; a new figure otherwise.

        Raises:
            ArgumentError: another cost, a setting that no trial has, or nothing to draw.
        """
        from ..common.figures import DENSE, GHOST, Points, pareto_plot

        front = self.pareto(cost)
        frame = self.to_frame().dropna(subset=[cost, self.metric])
        if not len(frame):
            raise ArgumentError("no trial has succeeded, so there is nothing to draw")
        by = by or ("model" if frame["model"].nunique() > 1 else None)
        if by is not None and by not in frame:
            raise ArgumentError(f"by={by!r} is no setting of these trials")

        def points(rows: "pd.DataFrame", label: str, colour: str) -> Points:
            return Points(rows[cost].tolist(), rows[self.metric].tolist(), label, colour)

        original = frame["params_share"].eq(1)
        students = frame[~original]
        groups = [points(students, "trials", GHOST)]
        if by is not None:
            parts = students.fillna({by: "none"}).groupby(by, sort=False)
            groups = [points(rows, f"{by} {value}", f"C{number % 10}") for number, (value, rows) in enumerate(parts)]
        return pareto_plot(
            groups,
            points(front, "Pareto front", GHOST),
            points(frame[original], "original", DENSE),
            xlabel=COST_NAMES[cost],
            ylabel="top-1" if self.metric == "top1" else "agreement with the original",
            unit="s" if cost == "latency" else "",
            ax=ax,
        )

    def to_html(self, path: str | Path | None = None) -> str:
        """One page with an interactive plot, whose axes can be chosen, and the table, which needs nothing from the network.

        Args:
            path: also write it to this file, which is replaced as a whole.

        Raises:
            ArgumentError: the file can't be written.
        """
        from .page import sweep_page

        return also_write(path, sweep_page(self.results, self.metric, self.summary()))

    def summary(self) -> str:
        """The totals in a few lines."""
        lines = [f"{len(self.results)} trials" + (f", {len(self.failed)} of them failed" if self.failed else "")]
        students = [result for result in self.results if result.error is None and not Trial(result.settings).is_original]
        if students:
            best = SweepResult(tuple(students), {}).best()
            judged = f"{self.metric} {getattr(best, self.metric):.2%}, {best.flops_share:.1%} of the FLOPs"
            if best.latency_share is not None:
                judged += f", {best.latency_share:.1%} of the time"
            lines.append(f"best student: {judged}: {best.described()}")
        lines += [f"failed: {result.described()}: {result.error}" for result in self.failed[:5]]
        lines += [f"can't be read: {name}: {reason}" for name, reason in list(self.unreadable.items())[:5]]
        return "\n".join(lines)

    def __str__(self) -> str:
        frame = self.to_frame()
        return (frame.to_string(index=False, max_rows=40) + "\n\n" if len(frame) else "") + self.summary()


def _order(result: TrialResult) -> list[tuple[str, bool, Any]]:
    """Key to sort results by: originals first, then by each setting in turn, numbers by size."""
    settings = result.settings
    keys: Sequence[str] = sorted(settings)
    return [(str(len(settings) > 1), False, "")] + [
        (key, isinstance(settings[key], str), settings[key] if isinstance(settings[key], str) else _number(settings[key]))
        for key in keys
    ]


def _limit(name: str, value: object) -> float:
    """A number, or ``"5M"`` and ``"10ms"`` of counts and times."""
    check_choice("limit", name, (*COSTS, "flops_share", "params_share", "latency_share"))
    if isinstance(value, str) and name in COSTS:
        return Target.parse({name: value}).value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"limit {name} must be a number, not {value!r}")
    return float(value)


def _number(value: object) -> tuple[float, str]:
    if isinstance(value, (int, float)):
        return (float(value), "")
    return (0.0, json.dumps(value, sort_keys=True))


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, (dict, list)) else value

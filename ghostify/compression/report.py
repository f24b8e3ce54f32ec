"""What a compression did, step by step, and what came of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..common.report import ReportBase, TextTable
from ..conversion.target import amount
from ..students.storage import save
from .search import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {"top1": "top-1", "agreement": "agreement", "mean_iou": "mean IoU", "map": "mAP"}


@dataclass(frozen=True)
class NetworkFigures:
    """Figures of one network.

    Attributes:
        params: how many numbers its parameters hold.
        flops: multiply-adds for one input.
        bytes: of its parameters and buffers, which a file holds.
        latency: seconds of one batch on the runtime; None where none was asked about.
        score: share from 0 to 1 on the images that judge; None without such images.
    """

    params: int
    flops: int
    bytes: int
    latency: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class CompressionStep:
    """One step; shares are those of the original.

    Attributes:
        step: what was done.
        share: what was asked of the plan: a share of FLOPs, params, or of seconds by the times of layers.
        params_share, flops_share, latency_share: what the student came to; latency was timed, beside the original.
        score: the student's measure.
        drop: how far that is below the original's.
        drop_at_most: the upper end of the drop's confidence interval.
        kept: whether the student keeps within the limit; None for a step without one.
        seconds: that the step took.
    """

    step: str
    seconds: float
    share: float | None = None
    params_share: float | None = None
    flops_share: float | None = None
    latency_share: float | None = None
    score: float | None = None
    drop: float | None = None
    drop_at_most: float | None = None
    kept: bool | None = None


@dataclass(frozen=True)
class CompressionReport(ReportBase):
    """What :func:`ghostify.compress` did.

    Attributes:
        model: class name of the network.
        goal: what was asked for, in words.
        steps: each step, in order.
        original, student: figures before and after.
        images: how many chose and calibrated.
        judging: how many other images judged; 0 where none did.
        measure: by what: ``"top1"``, ``"agreement"``, ``"mean_iou"``, ``"map"``, or another of a task's; None without images.
        chosen: number of the step whose student was taken; None where there was no choice.
        runtime: with batch size and threads, in words; None where latency did not matter.
        notes: sentences on what should be known.
    """

    width = 120

    model: str
    goal: str
    steps: tuple[CompressionStep, ...]
    original: NetworkFigures
    student: NetworkFigures
    images: int
    judging: int = 0
    measure: str | None = None
    chosen: int | None = None
    runtime: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Time of all steps, those of earlier calls with the same ``out`` included."""
        return sum(step.seconds for step in self.steps)

    def before_and_after(self) -> TextTable:
        """The figures of both networks, a row for each, in units that are easily read."""
        before, after = self.original, self.student
        rows: list[tuple[str, str, str, str]] = []
        if before.score is not None and after.score is not None:
            points = f"{100 * (after.score - before.score):+.2f} points"
            rows.append((self._measure_name, f"{before.score:.2%}", f"{after.score:.2%}", points))
        for name, metric, unit, (less, more) in (
            ("parameters", "params", "", ("fewer", "more")),
            ("FLOPs", "flops", "", ("fewer", "more")),
            ("file", "bytes", "B", ("smaller", "larger")),
            ("time of a batch", "latency", "", ("faster", "slower")),
        ):
            one, other = getattr(before, metric), getattr(after, metric)
            if one is not None and other is not None:
                times = max(one, other) / max(min(one, other), 1e-12)
                word = less if other <= one else more
                rows.append((name, amount(metric, one) + unit, amount(metric, other) + unit, f"{times:.2f}x {word}"))
        return TextTable(("", "before", "after", "change"), rows, right=(1, 2, 3))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The measure of each judged student against its FLOPs; without images that judge, figures before and after.

        Args:
            ax: axes to draw into; a new figure otherwise.
        """
        from ..common.figures import DENSE, GHOST, Bars, Points, grouped_bars, pareto_plot

        judged = [step for step in self.steps if step.score is not None]
        if not judged or self.original.score is None:
            pairs = [("params", self.original.params, self.student.params), ("FLOPs", self.original.flops, self.student.flops)]
            if self.original.latency is not None and self.student.latency is not None:
                shares = [self.student.latency / self.original.latency]
            else:
                shares = []
            names = [name for name, _, _ in pairs] + ["latency"] * len(shares)
            shares = [after / before for _, before, after in pairs] + shares
            bars = [Bars("original", [1.0] * len(names)), Bars("student", shares)]
            return grouped_bars(names, bars, title=f"{self.model}: {self.goal}", ylabel="share of the original", unit="", ax=ax)
        groups = []
        for label, kept, colour in (("within the limit", True, GHOST), ("beyond it", False, DENSE)):
            some = [step for step in judged if step.kept is kept or (kept and step.kept is None)]
            flops = [(step.flops_share or 0) * self.original.flops for step in some]
            groups.append(Points(flops, [step.score or 0 for step in some], label, colour))
        chosen = Points([self.student.flops], [self.student.score or 0], "the student", GHOST)
        original = Points([self.original.flops], [self.original.score], "original")
        groups = [group for group in groups if group.x]
        return pareto_plot(groups, chosen, original, xlabel="FLOPs (multiply-adds)", ylabel=self._measure_name, ax=ax)

    def summary(self) -> str:
        """What came of it, a line for each figure."""
        before, after = self.original, self.student
        lines = [f"{self.model}: {self.goal}, {len(self.steps)} steps in {self.seconds:.0f} s"]
        if before.score is not None and after.score is not None:
            lines.append(self._drop(before.score, after.score))
        for name, metric, one, other in (
            ("params", "params", before.params, after.params),
            ("FLOPs", "flops", before.flops, after.flops),
            ("file", "bytes", before.bytes, after.bytes),
        ):
            unit = "B" if metric == "bytes" else ""
            texts = f"{amount(metric, one)}{unit} → {amount(metric, other)}{unit}"
            lines.append(
                f"{name:<12}{texts}  ({one / max(1, other):.2f}x fewer)".replace("fewer", "smaller" if unit else "fewer")
            )
        if before.latency is not None and after.latency is not None:
            times = f"{before.latency * 1e3:.3g} ms → {after.latency * 1e3:.3g} ms"
            lines.append(f"{'latency':<12}{times}  ({before.latency / after.latency:.2f}x faster), {self.runtime}")
        return "\n".join([*lines, *self.notes])

    def _drop(self, before: float, after: float) -> str:
        line = f"{self._measure_name:<12}{before:.2%} → {after:.2%}"
        last = next((step for step in reversed(self.steps) if step.score == after and step.drop_at_most is not None), None)
        if last is None or last.drop is None:
            return f"{line} on {self.judging} images"
        return (
            f"{line}: {100 * last.drop:.2f} points less on {self.judging} images held out, "
            f"at most {100 * (last.drop_at_most or 0):.2f} with {CONFIDENCE:.0%} confidence"
        )

    @property
    def _measure_name(self) -> str:
        return MEASURES.get(self.measure or "", self.measure or "")

    def _records(self) -> Sequence[Mapping[str, object]]:
        return [asdict(step) for step in self.steps]

    def _columns(self) -> Sequence[str]:
        return [field.name for field in fields(CompressionStep)]

    def _table(self) -> TextTable:
        titles = (
            "step",
            "asked",
            "params",
            "FLOPs",
            "latency",
            self._measure_name or "measure",
            "drop",
            "at most",
            "",
            "seconds",
        )
        return TextTable(
            titles, [self._cells(number, step) for number, step in enumerate(self.steps)], right=(1, 2, 3, 4, 5, 6, 7, 9)
        )

    def _cells(self, number: int, step: CompressionStep) -> tuple[str, ...]:
        shares = (step.share, step.params_share, step.flops_share, step.latency_share, step.score, step.drop, step.drop_at_most)
        texts = [
            "" if share is None else f"{share:.2%}" if position > 3 else f"{share:.1%}" for position, share in enumerate(shares)
        ]
        verdict = {None: "", True: "within", False: "beyond"}[step.kept]
        return step.step, *texts, "taken" if number == self.chosen else verdict, f"{step.seconds:.1f}"


@dataclass(frozen=True)
class CompressionResult:
    """What :func:`ghostify.compress` gives.

    Attributes:
        student: the smaller network, in evaluation mode, on the device of the original.
        report: each step with its figures and seconds.
    """

    student: nn.Module
    report: CompressionReport

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The figure of the report (:meth:`CompressionReport.plot`)."""
        return self.report.plot(ax)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``student.safetensors``, which :func:`ghostify.load` reads, ``report.json``, ``report.md`` and ``report.png``.

        Args:
            folder: it is made where there is none.

        Raises:
            ArgumentError: the student or a file can't be written.
        """
        from matplotlib.figure import Figure

        path = Path(folder)
        self.report.to_json(path / "report.json")
        self.report.to_markdown(path / "report.md")
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        self.report.plot(figure.subplots())
        figure.savefig(path / "report.png", dpi=120)
        save(self.student, path / "student.safetensors")

    def __str__(self) -> str:
        return str(self.report)

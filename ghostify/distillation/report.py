"""The report of a distillation, epoch by epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.files import also_write
from ..common.report import ReportBase, TextTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = {
    "top1": "top-1",
    "agreement": "agreement with the teacher",
    "mean_iou": "mean IoU",
    "map": "mAP",
    "map50": "mAP@0.5",
}


@dataclass(frozen=True)
class EpochResult:
    """One epoch; the first, number 0, is the student before training.

    Attributes:
        epoch: number of the epoch.
        step: optimizer steps from the start of the run to the end of the epoch.
        lr: learning rate of the last step.
        loss: mean over the epoch of the weighted sum of losses.
        parts: means over the epoch of these losses by name, unweighted.
        scores: shares from 0 to 1 of the validation, such as ``top1``, ``agreement``, ``mean_iou``; the best epoch is chosen by
            the first.
        seconds: time of training from the start of the run to the end of the epoch.
        images_per_second: speed of training in the epoch.
    """

    epoch: int
    step: int
    lr: float | None = None
    loss: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_second: float | None = None

    @property
    def score(self) -> float | None:
        """The score that the best epoch is chosen by; None where the epoch was not validated."""
        return next(iter(self.scores.values()), None)

    def flat(self) -> dict[str, float | None]:
        """The values by column, with a column for each score and for each part of the loss."""
        values = {"epoch": self.epoch, "step": self.step, "lr": self.lr, "loss": self.loss}
        values |= self.scores | {"seconds": self.seconds, "images_per_second": self.images_per_second}
        return values | {f"loss_{name}": value for name, value in self.parts.items()}


@dataclass(frozen=True)
class RecoveryReport(ReportBase):
    """The report of :func:`ghostify.distill`.

    Attributes:
        model: class name of the student.
        epochs: a row for each epoch, the first of them for the student before training.
        best: number of the epoch whose weights the student has; None where there was no validation to choose by.
        ended: why training ended.
        broken: number of pictures that could not be read and were left out.
        notes: sentences on what was different from what the recipe asks for.
    """

    index = "epoch"

    model: str
    epochs: tuple[EpochResult, ...]
    best: int | None
    ended: str
    broken: int = 0
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs[-1].step

    @property
    def seconds(self) -> float:
        """Time of training, without validation."""
        return self.epochs[-1].seconds

    def to_csv(self, path: str | Path | None = None) -> str:
        """The epochs as CSV, as in ``history.csv`` of a run.

        Args:
            path: also write it to this file, which is replaced as a whole.

        Raises:
            ArgumentError: the file can't be written.
        """
        return also_write(path, history_csv(self.epochs))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The mean loss of each epoch against steps, and on an axis of its own the validation where there is one.

        Args:
            ax: axes to draw into; a new figure otherwise.
        """
        from ..common.figures import Points, training_curves

        trained = [(row.step, row.loss) for row in self.epochs if row.loss is not None]
        loss = Points([step for step, _ in trained], [value for _, value in trained], "loss")
        scored = [(row.step, row.score, next(iter(row.scores))) for row in self.epochs if row.score is not None]
        score = None
        if scored:
            name = scored[0][2]
            score = Points([step for step, _, _ in scored], [value for _, value, _ in scored], SCORES.get(name, name))
        return training_curves(loss, score, title=f"{self.model}: {self.steps} steps", ax=ax)

    def summary(self) -> str:
        """The outcome in a few lines."""
        speeds = [row.images_per_second for row in self.epochs if row.images_per_second]
        speed = f", {sum(speeds) / len(speeds):,.0f} images/s" if speeds else ""
        lines = [f"{self.model}: {self.steps} steps in {self.seconds:.1f} s{speed}; {self.ended}"]
        scored = [row for row in self.epochs if row.score is not None]
        if scored and self.best is not None:
            kept = next(row for row in scored if row.epoch == self.best)
            what = SCORES.get(next(iter(kept.scores)), next(iter(kept.scores)))
            lines.append(f"{what} {scored[0].score:.2%} → {kept.score:.2%}, with the weights of epoch {kept.epoch}")
        if self.broken:
            lines.append(f"{self.broken} picture{'s' if self.broken > 1 else ''} could not be read and were left out")
        return "\n".join([*lines, *self.notes])

    def _records(self) -> Sequence[Mapping[str, object]]:
        return [row.flat() for row in self.epochs]

    def _table(self) -> TextTable:
        return self._epoch_table(self.epochs)

    def _printed(self) -> TextTable:
        return self._epoch_table(_evenly_some(self.epochs))

    def _epoch_table(self, epochs: Sequence[EpochResult]) -> TextTable:
        """A row for each of some epochs, with a column for each score."""
        scores = list(self.epochs[0].scores)
        titles = ["epoch", "step", "lr", "loss", *(SCORES.get(name, name) for name in scores), "seconds"]
        rows = []
        for row in epochs:
            training = [str(row.epoch), str(row.step), _number(row.lr, ".4g"), _number(row.loss, ".4f")]
            validation = [_number(row.scores.get(name), ".2%") for name in scores]
            rows.append([*training, *validation, f"{row.seconds:.1f}"])
        return TextTable(titles, rows, right=range(len(titles)))


def history_csv(epochs: Sequence[EpochResult]) -> str:
    """One row for each epoch, with a column for each part of the loss."""
    rows = [row.flat() for row in epochs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _evenly_some(rows: Sequence[EpochResult], most: int = 24) -> list[EpochResult]:
    """All rows, or where they are many evenly some, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

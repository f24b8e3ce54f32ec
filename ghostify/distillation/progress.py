"""How far a distillation run is: what it has done, and how much of its budget is spent."""

import math
from dataclasses import dataclass, field

import torch

from ..common.files import PlainData
from ..common.processes import sum_over_processes
from .batch_losses import BatchLosses
from .report import EpochResult
from .training_recipe import Recipe


@dataclass
class Progress:
    """Where a run stands; together with the weights and the optimizer's state, all that going on needs. A checkpoint holds
    these fields under their names.

    Attributes:
        step: optimizer steps that are done.
        epoch: epochs that are complete.
        batch: batches of this epoch that are done.
        seconds: time of training, without validation.
        sums: sum of each loss over the batches of this epoch.
        summed: batches in these sums.
        images: images of this epoch, over all processes.
        epoch_seconds: time of training in this epoch.
        history: a row for each complete epoch, the first of them for the student before training.
        best: number of the epoch with the best validation; None before the first.
        ended: why training ended; empty while it goes on.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    images: int = 0
    epoch_seconds: float = 0.0
    history: list[EpochResult] = field(default_factory=list)
    best: int | None = None
    ended: str = ""

    @classmethod
    def from_dict(cls, data: PlainData) -> "Progress":
        """Progress from the fields that a checkpoint holds."""
        return cls(**{**data, "history": [EpochResult(**row) for row in data["history"]]})

    @property
    def images_per_second(self) -> float:
        """Speed of training in this epoch."""
        return self.images / max(self.epoch_seconds, 1e-9)

    @property
    def best_score(self) -> float | None:
        """The score of the best epoch; None where none was validated."""
        return next((row.score for row in self.history if row.epoch == self.best), None)

    @property
    def losses_are_finite(self) -> bool:
        """Whether all losses of this epoch so far are finite."""
        return all(map(math.isfinite, self.sums.values()))

    def add_seconds(self, seconds: float) -> None:
        """Count time of training."""
        self.seconds += seconds
        self.epoch_seconds += seconds

    def add_losses(self, losses: BatchLosses) -> None:
        """Add the losses of some batches to the sums of this epoch."""
        for name, column in zip(losses.names, losses.values.double().T.tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + sum(column)
        self.summed += len(losses.values)

    def close_epoch(self, lr: float) -> EpochResult:
        """Count the epoch as complete and begin the next one.

        Args:
            lr: learning rate of the last step.

        Returns:
            The row of the epoch, with the means of its losses and no validation; it is not yet in the history.
        """
        means = {name: value / self.summed for name, value in self.sums.items()}
        self.epoch += 1
        row = EpochResult(
            epoch=self.epoch,
            step=self.step,
            lr=lr,
            loss=means.pop("loss"),
            parts=means,
            seconds=self.seconds,
            images_per_second=self.images_per_second,
        )
        self.batch = self.images = self.summed = 0
        self.sums, self.epoch_seconds = {}, 0.0
        return row


@dataclass(frozen=True)
class Budget:
    """How long a run may be.

    Args:
        recipe: it has epochs, steps or minutes.
        epoch_batches: batches of an epoch in this process; 0 where that is not known.
        processes: number of processes.
    """

    recipe: Recipe
    epoch_batches: int
    processes: int

    def is_spent(self, progress: Progress) -> bool:
        """Whether a budget of steps or minutes is spent, in the same way in all processes; one of epochs ends by itself."""
        recipe = self.recipe
        if recipe.steps is not None:
            return progress.step >= recipe.steps
        spent = recipe.minutes is not None and progress.seconds >= 60 * recipe.minutes
        if recipe.minutes is not None and self.processes > 1:
            spent = bool(sum_over_processes(torch.tensor(float(spent))) > 0)
        return spent

    def part(self, progress: Progress) -> float:
        """Which part of the budget the next step stands at the middle of."""
        recipe = self.recipe
        if recipe.steps is not None:
            return (progress.step + 0.5) / recipe.steps
        if recipe.minutes is not None:
            return progress.seconds / (60 * recipe.minutes)
        within = (progress.batch - 0.5 * recipe.accumulate) / self.epoch_batches if self.epoch_batches else 0
        return (progress.epoch + max(0.0, within)) / (recipe.epochs or 1)

    def end_of(self, progress: Progress) -> str:
        """Why training ends after an epoch; empty where some budget is left."""
        recipe = self.recipe
        if recipe.epochs is not None and progress.epoch >= recipe.epochs:
            return f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''} done"
        if recipe.steps is not None and progress.step >= recipe.steps:
            return f"the budget of {recipe.steps} steps is spent"
        if recipe.minutes is not None and self.is_spent(progress):
            return f"the budget of {recipe.minutes:g} minutes is spent"
        return ""

"""The training loop: epochs of distillation steps, validation, checkpoints, and the way back from them."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ..common.processes import process_state
from ..common.random_state import RandomStream
from ..common.tensors import load_strictly, state_of
from ..errors import ArgumentError, ArgumentTypeError, DivergedError
from ..inputs.sources import Source
from ..tasks.task import Task
from .batch_losses import PendingLosses
from .checkpoint import Checkpoint, RunIdentity, Weights, checksum_of_teacher
from .epoch_batches import EpochBatches
from .progress import Budget, Progress
from .report import EpochResult, RecoveryReport
from .run_folder import RunFolder
from .stepper import Stepper
from .training_recipe import Recipe

LOOK_EVERY = 10  # batches between looks at the losses, each of which waits for the device

OnStep = Callable[[float, dict[str, float], float], None]  # part of the budget, losses, images a second


class Trainer:
    """One training of ``student`` towards ``teacher``.

    Args:
        student: a copy that may be changed.
        teacher: a network that may share tensors with the user's; it is put in evaluation mode.
        train: batches to train on.
        val: batches to validate on; None for no validation.
        recipe: budget, losses and optimizer.
        task: how networks are compared and judged.
        folder: the folder of the run, for checkpoints and the history; None for neither.
        checkpoint_seconds: time between checkpoints within an epoch.
        on_step: called from time to time.

    Raises:
        ArgumentError: the student has nothing to train.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        train: Source,
        val: Source | None,
        recipe: Recipe,
        task: Task,
        folder: RunFolder | None = None,
        checkpoint_seconds: float = 300,
        on_step: OnStep = lambda part, losses, speed: None,
    ):
        from accelerate import Accelerator

        process_state()  # the Accelerator takes over what it says of the processes
        self.accelerator = Accelerator()
        self.recipe, self.task, self.train, self.val = recipe, task, train, val
        self.folder, self.checkpoint_seconds, self.on_step = folder, checkpoint_seconds, on_step
        self.student, self.teacher = self._placed(student).train(), self._placed(teacher).eval()
        if not recipe.dropout:
            _switch_off_dropout(self.student)
        augments = train.plain and recipe.augment == "auto"
        self.stepper = Stepper(self.student, self.teacher, recipe, task, self.accelerator, augments)
        self.batches = EpochBatches(train, recipe)
        self.budget = Budget(recipe, self.batches.length, self.accelerator.num_processes)
        self.progress = Progress()
        self.pending = PendingLosses(self.accelerator.num_processes)
        self.best: Weights = {}  # of the best validated epoch
        self.good = _copied(self.student)  # of the end of the last epoch
        self.checkpoint: Checkpoint | None = None
        if folder is not None:
            identity = RunIdentity(recipe, len(train), checksum_of_teacher(self.teacher), val is not None)
            self.checkpoint = Checkpoint(folder.checkpoint, identity)

    def _placed(self, model: nn.Module) -> nn.Module:
        model = model.to(self.accelerator.device)
        return model.to(memory_format=torch.channels_last) if self.recipe.channels_last else model

    # -- the whole run ------------------------------------------------------------------------------------------------

    def run(self, resume: bool) -> RecoveryReport:
        """Train until the budget is spent; :meth:`result` then has the weights.

        Args:
            resume: go on from the checkpoint, where there is one.

        Raises:
            ArgumentError, ArgumentTypeError: student, teacher, data, task and checkpoint do not fit each other.
            DivergedError: a loss was not finite; the student is back at the end of the last epoch.
        """
        notes = self._begin()
        resumed = resume and self.checkpoint is not None and self.checkpoint.path.exists()
        if resumed:
            self._restore()
        progress = self.progress
        try:
            self.stepper.share_gradients()
            if not resumed:
                self._record(EpochResult(0, 0))
            while not progress.ended:
                self._epoch()
        finally:
            self.stepper.objective.close()
        return RecoveryReport(
            model=type(self.student).__name__,
            epochs=tuple(progress.history),
            best=progress.best if self.val is not None else None,
            ended=progress.ended,
            broken=int(self.train.broken.sum()),
            notes=tuple(notes),
        )

    def result(self) -> Weights:
        """The weights to keep: the best validated, else the running average, else the last."""
        return self.best or _copied(self.stepper.judged)

    def _begin(self) -> list[str]:
        """Look at the first batch, whether models and data fit each other.

        Returns:
            Notes for the report.

        Raises:
            ArgumentError: they do not fit.
        """
        with RandomStream(self.recipe.seed).active():
            batch = next(iter(self.train.batches), None)
            if batch is None:
                raise ArgumentError("train is empty: it has no batch")
            images, _ = self.task.split(batch, self.student)
            return self.stepper.objective.begin(images[:2])

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Train until the epoch is over or the budget is spent, and record what came of it.

        Raises:
            ArgumentError: there was no batch.
        """
        progress = self.progress
        saved = time.perf_counter()
        for step_batches in self.batches.steps(progress.epoch, progress.batch):
            started = time.perf_counter()
            self._step(step_batches.batches)
            progress.add_seconds(step_batches.waited + (time.perf_counter() - started))
            if len(self.pending) >= LOOK_EVERY:
                self._look_at_losses()
            if time.perf_counter() - saved > self.checkpoint_seconds:
                self._save()
                saved = time.perf_counter()
            if self.budget.is_spent(progress):
                break
        self._look_at_losses()
        if not progress.images:
            raise ArgumentError("train gives no batch" + (" a second time" if progress.epoch else ""))
        self._record(progress.close_epoch(self.stepper.lr))

    def _step(self, batches: list[object]) -> None:
        """Take one optimizer step and count it."""
        progress = self.progress
        progress.batch += len(batches)
        losses, images = self.stepper.step(batches, progress.step, self.budget.part(progress))
        self.pending.note(losses)
        progress.images += images * self.accelerator.num_processes
        progress.step += 1

    def _look_at_losses(self) -> None:
        """Add the losses since the last look to the sums of the epoch, over all processes.

        Raises:
            DivergedError: a loss is not finite; the student is back at the end of the last epoch.
        """
        progress = self.progress
        losses = self.pending.take()
        if losses is None:
            return
        progress.add_losses(losses)
        if not progress.losses_are_finite:
            step = progress.step - losses.batches_since_bad // self.recipe.accumulate
            load_strictly(self.student, self.good)
            raise DivergedError(
                f"the loss was not finite at step {step}, in epoch {progress.epoch + 1}: a lower lr, clip=1 or bf16 "
                f"instead of fp16 may help; the weights are those of the end of epoch {progress.epoch}",
                step,
            )
        self.on_step(min(self.budget.part(progress), 1.0), losses.last, progress.images_per_second)

    def _record(self, row: EpochResult) -> None:
        """Validate after an epoch, keep the best weights, end where that is due, and write what is to be written."""
        progress = self.progress
        row = self._validated(row)
        if row.epoch:
            progress.ended = self.budget.end_of(progress)
            self.good = _copied(self.student)
        self._keep_best(row)
        progress.history.append(row)
        self._save()
        if self.folder is not None and self.accelerator.is_main_process:
            self.folder.write_history(progress.history)

    def _validated(self, row: EpochResult) -> EpochResult:
        """The row with the scores of the validation, where there is one."""
        if self.val is None:
            return row
        judgement = self.task.evaluate(self.stepper.judged, self.teacher, self.val)
        if not hasattr(judgement, "scores"):
            returned = type(judgement).__name__
            raise ArgumentTypeError(f"the task's evaluate() must return something with scores(), not {returned}")
        return replace(row, scores=judgement.scores())

    def _keep_best(self, row: EpochResult) -> None:
        """Keep the weights of an epoch that is better than those before it; end the run where none was for too long."""
        progress, patience = self.progress, self.recipe.patience
        if row.score is None:
            return
        best_score = progress.best_score
        if best_score is None or row.score > best_score:
            progress.best, self.best = row.epoch, _copied(self.stepper.judged)
        elif patience is not None and row.epoch - (progress.best or 0) >= patience:
            progress.ended = progress.ended or f"no better validation in {patience} epochs"

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint, where the run has one, and wait until it is there."""
        if self.checkpoint is None:
            return
        self._look_at_losses()
        if self.accelerator.is_main_process:
            self.checkpoint.save(self.stepper, self.best, self.progress)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        assert self.checkpoint is not None
        self.progress, self.best = self.checkpoint.restore(self.stepper)
        self.good = _copied(self.student)


def _switch_off_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def _copied(model: nn.Module) -> Weights:
    """A copy of a model's weights on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in state_of(model).items()}

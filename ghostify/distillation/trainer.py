"""The training loop: epochs of distillation steps, validation, checkpoints, and the way back from them."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.processes import process_state, summed
from ..common.random_state import RandomStream, seed_all, seed_of
from ..common.tensors import checksum, versioned
from ..errors import ArgumentError, ArgumentTypeError, DivergedError
from ..inputs.augment import mirrored_and_shifted
from ..inputs.sources import Source, shared_out
from ..tasks.scores import Scores
from ..tasks.task import Task
from .checkpoint import load_state, pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint
from .objective import Objective
from .progress import Progress
from .recipe import Recipe
from .report import EpochResult, RecoveryReport
from .synced_norms import SyncedNorms

log = logging.getLogger(__name__)


TICKS = 1_000_000  # the schedule's unit of time: the whole budget


EPOCH_STEPS = 50  # with a budget of steps or minutes, an epoch passes over few images several times, until it has so many


LOOK_EVERY = 10  # steps between looks at the losses, each of which waits for the device


OnStep = Callable[[float, dict[str, float], float], None]  # part of the budget, losses, images a second


class Trainer:
    """One training of ``student`` towards ``teacher``.

    Args:
        student: a copy that may be changed.
        teacher: in evaluation mode; it may share tensors with the user's.
        train: batches to train on.
        val: batches to validate on.
        checkpoint: the file to go on from; None for no checkpoints.
        on_epoch: called with the history after each epoch, in the main process.
        on_step: called from time to time.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        train: Source,
        val: Source | None,
        recipe: Recipe,
        task: Task,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 300,
        on_epoch: Callable[[list[EpochResult]], None] = lambda history: None,
        on_step: OnStep = lambda part, losses, speed: None,
    ):
        from accelerate import Accelerator
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        process_state()  # the Accelerator takes over what it says of the processes
        self.accelerator = Accelerator()
        self.processes = self.accelerator.num_processes
        self.device = self.accelerator.device
        self.recipe, self.task, self.train, self.val = recipe, task, train, val
        self.checkpoint, self.checkpoint_seconds = checkpoint, checkpoint_seconds
        self.on_epoch, self.on_step = on_epoch, on_step
        self.student, self.teacher = (model.to(self.device) for model in (student, teacher))
        if recipe.channels_last:
            self.student, self.teacher = (m.to(memory_format=torch.channels_last) for m in (self.student, self.teacher))
        self.student.train()
        self.teacher.eval()
        if not any(p.requires_grad for p in self.student.parameters()):
            raise ArgumentError("student has no parameter that requires a gradient")
        if not recipe.dropout:
            for module in self.student.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    module.p = 0.0
        self.ema = ModelEmaV3(self.student, recipe.ema, use_warmup=True) if recipe.ema else None
        self.optimizer = create_optimizer_v2(self.student, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay)
        name = "step" if recipe.schedule == "constant" else recipe.schedule
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer, name, num_epochs=TICKS, decay_epochs=2 * TICKS, warmup_epochs=round(recipe.warmup * TICKS),
            warmup_lr=0.0,
        )  # fmt: skip
        if self.device.type == "cpu" and not cpu_computes_in(recipe.precision):
            log.warning("this processor has no %s arithmetic: fp32 is many times faster here", recipe.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.loader: Any = shared_out(train, recipe.seed, training=True)
        length = len(train)
        several = length and recipe.epochs is None
        self.passes = max(1, math.ceil(EPOCH_STEPS * recipe.accumulate / length)) if several else 1
        self.length = length * self.passes  # batches of an epoch; 0 where that is not known
        self.progress = Progress()
        self.pending: list[dict[str, Tensor]] = []
        self.best: dict[str, Tensor] = {}
        self.good = _copied(self.student.state_dict())
        self.lesson = Objective(self.student, self.teacher, task, recipe)
        self.waited = 0.0  # seconds for the batches of the step at hand
        self.notes: list[str] = []

    # -- the whole run ------------------------------------------------------------------------------------------------

    def run(self, resume: bool) -> RecoveryReport:
        """Train until the budget is spent; :meth:`result` then has the weights."""
        self._look_at_first_batch()
        resumed = resume and self.checkpoint is not None and self.checkpoint.exists()
        if resumed:
            self._restore()
        try:
            self.model: Any = self.accelerator.prepare_model(self.lesson)
            if not resumed:
                self.progress.history.append(self._validated(EpochResult(0, 0)))
                self._epoch_is_over(self.progress.history[-1])
            while not self.progress.ended:
                self._epoch()
        finally:
            self.lesson.close()
        progress = self.progress
        best = progress.best if self.val is not None else None
        broken = int(self.train.broken.sum())
        name = type(self.student).__name__
        return RecoveryReport(name, tuple(progress.history), best, progress.ended, broken, tuple(self.notes))

    def result(self) -> dict[str, Tensor]:
        """The weights to keep: the best validated, else the running average, else the last."""
        return self.best or _copied(self._judged().state_dict())

    def _epoch(self) -> None:
        progress = self.progress
        saved = time.perf_counter()
        for group in self._groups():
            started = time.perf_counter()
            self._step(group)
            taken = time.perf_counter() - started
            progress.seconds += self.waited + taken
            progress.epoch_seconds += self.waited + taken
            if len(self.pending) >= LOOK_EVERY:
                self._look_at_losses()
            if self.checkpoint is not None and time.perf_counter() - saved > self.checkpoint_seconds:
                self._save()
                saved = time.perf_counter()
            if self._spent():
                break
        self._look_at_losses()
        if not progress.images:
            raise ArgumentError("train gives no batch" + (" a second time" if progress.epoch else ""))
        means = {name: value / progress.summed for name, value in progress.sums.items()}
        progress.epoch += 1
        row = EpochResult(
            progress.epoch, progress.step, self.optimizer.param_groups[0]["lr"], means.pop("loss"), means,
            seconds=progress.seconds, images_per_second=progress.images / max(progress.epoch_seconds, 1e-9),
        )  # fmt: skip
        progress.batch = progress.images = progress.summed = 0
        progress.sums, progress.epoch_seconds = {}, 0.0
        progress.history.append(self._validated(row))
        self._end_where_due()
        self.good = _copied(self.student.state_dict())
        self._epoch_is_over(progress.history[-1])

    def _epoch_is_over(self, row: EpochResult) -> None:
        progress, score = self.progress, row.score
        if score is not None:
            before = next((r.score for r in progress.history if r.epoch == progress.best), None)
            if before is None or score > before:
                progress.best, self.best = row.epoch, _copied(self._judged().state_dict())
            elif self.recipe.patience is not None and row.epoch - (progress.best or 0) >= self.recipe.patience:
                progress.ended = progress.ended or f"no better validation in {self.recipe.patience} epochs"
        if self.checkpoint is not None:
            self._save()
        if self.accelerator.is_main_process:
            self.on_epoch(progress.history)

    def _end_where_due(self) -> None:
        recipe, progress = self.recipe, self.progress
        if recipe.epochs is not None and progress.epoch >= recipe.epochs:
            progress.ended = f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''} done"
        elif recipe.steps is not None and progress.step >= recipe.steps:
            progress.ended = f"the budget of {recipe.steps} steps is spent"
        elif recipe.minutes is not None and self._spent():
            progress.ended = f"the budget of {recipe.minutes:g} minutes is spent"

    def _spent(self) -> bool:
        """Whether a budget of steps or minutes is; one of epochs ends by itself."""
        recipe, progress = self.recipe, self.progress
        if recipe.steps is not None:
            return progress.step >= recipe.steps
        over = recipe.minutes is not None and progress.seconds >= 60 * recipe.minutes
        if recipe.minutes is not None and self.processes > 1:
            over = bool(summed(torch.tensor(float(over))) > 0)
        return over

    def _part(self) -> float:
        """Which part of the budget the next step stands at the middle of."""
        recipe, progress = self.recipe, self.progress
        if recipe.steps is not None:
            return (progress.step + 0.5) / recipe.steps
        if recipe.minutes is not None:
            return progress.seconds / (60 * recipe.minutes)
        within = (progress.batch - 0.5 * recipe.accumulate) / self.length if self.length else 0
        return (progress.epoch + max(0.0, within)) / (recipe.epochs or 1)

    # -- data ---------------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Any]:
        """The batches of this epoch that are left. Their order and augmentation follow from the seed and the epoch alone,
        so a run that goes on passes over those that it had."""
        progress, seen = self.progress, 0
        skip = progress.batch
        for number in range(self.passes):
            stream = RandomStream(seed_of(self.recipe.seed, 1, progress.epoch, number))
            if hasattr(self.loader, "set_epoch"):
                self.loader.set_epoch(progress.epoch * self.passes + number)
            with stream.active():
                batches = iter(self.loader)
            while True:
                with stream.active():
                    item = next(batches, None)
                if item is None:
                    break
                seen += 1
                if seen > skip:
                    yield item

    def _groups(self) -> Iterator[list[Any]]:
        """The batches of one optimizer step each; ``waited`` says how long they took to come."""
        group: list[Any] = []
        started = time.perf_counter()
        for item in self._batches():
            group.append(item)
            if len(group) == self.recipe.accumulate:
                self.waited = time.perf_counter() - started
                yield group
                group, started = [], time.perf_counter()
        if group:
            self.waited = time.perf_counter() - started
            yield group

    def _placed(self, item: Any) -> tuple[Any, Any]:
        images, targets = self.task.split(item, self.student)
        if isinstance(images, Tensor) and images.dim() == 4 and self.recipe.channels_last:
            images = images.to(memory_format=torch.channels_last)
        return images, self.task.check(targets) if self.recipe.labels else None

    # -- a step -------------------------------------------------------------------------------------------------------

    def _step(self, group: list[Any]) -> None:
        progress, recipe = self.progress, self.recipe
        progress.batch += len(group)
        seed_all(seed_of(recipe.seed, 2, progress.step, self.accelerator.process_index))
        self.scheduler.step(min(round(self._part() * TICKS), TICKS - 1))
        for number, item in enumerate(group):
            images, targets = self._placed(item)
            if self.train.plain and recipe.augment == "auto" and isinstance(images, Tensor):
                images = mirrored_and_shifted(images)
            if recipe.mixup or recipe.cutmix:
                images, targets = self._mixed(images, targets)
            last = number == len(group) - 1
            with ExitStack() as stack:
                if not last:
                    stack.enter_context(self.accelerator.no_sync(self.model))
                if self.processes > 1:
                    stack.enter_context(SyncedNorms())
                with self._autocast():
                    losses = self.model(images, targets)
                self.scaler.scale(losses["loss"] / len(group)).backward()
            self.pending.append({name: value.detach() for name, value in losses.items()})
            progress.images += len(images) * self.processes
        self.scaler.unscale_(self.optimizer)
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        if self.ema is not None:
            self.ema.update(self.student, progress.step)

    def _mixed(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        from timm.data import Mixup

        if not isinstance(self.task, Scores) or self.task.dims > 2:
            raise ArgumentError("mixup and cutmix mix classes: this task has none")
        if len(images) == 1:
            return images, labels
        even = len(images) // 2 * 2
        images, labels = images[:even], None if labels is None else labels[:even]
        mixup = Mixup(self.recipe.mixup, self.recipe.cutmix, label_smoothing=0.0, num_classes=self.task.classes)
        none = labels is None
        images, mixed = mixup(images, torch.zeros(len(images), dtype=torch.long, device=self.device) if none else labels)
        return images, None if none else mixed

    def _autocast(self) -> AbstractContextManager[Any]:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        kind = kinds.get(self.recipe.precision)
        return nullcontext() if kind is None else torch.autocast(self.device.type, kind)

    def _look_at_losses(self) -> None:
        """Sum up what was noted since the last look, over all processes; a loss that is not finite ends the run.

        Raises:
            DivergedError: the student is back at the end of the last epoch.
        """
        progress, pending = self.progress, self.pending
        self.pending = []
        if not pending:
            return
        values = torch.stack([torch.stack([losses[name].float() for name in pending[0]]) for losses in pending])
        values = summed(values) / self.processes
        for name, column in zip(pending[0], values.double().T.tolist(), strict=True):
            progress.sums[name] = progress.sums.get(name, 0.0) + sum(column)
        progress.summed += len(pending)
        if not all(map(math.isfinite, progress.sums.values())):
            bad = int((~torch.isfinite(values).all(1)).nonzero()[0])
            step = progress.step - (len(pending) - 1 - bad) // self.recipe.accumulate
            self.student.load_state_dict(versioned(self.good, self.student))
            raise DivergedError(
                f"the loss was not finite at step {step}, in epoch {progress.epoch + 1}: a lower lr, clip=1 or bf16 "
                f"instead of fp16 may help; the weights are those of the end of epoch {progress.epoch}",
                step,
            )
        speed = progress.images / max(progress.epoch_seconds, 1e-9)
        self.on_step(min(self._part(), 1.0), dict(zip(pending[0], values[-1].tolist(), strict=True)), speed)

    # -- looking ------------------------------------------------------------------------------------------------------

    def _judged(self) -> nn.Module:
        return self.student if self.ema is None else self.ema.module

    def _validated(self, row: EpochResult) -> EpochResult:
        if self.val is None:
            return row
        found = self.task.evaluate(self._judged(), self.teacher, self.val)
        if not hasattr(found, "scores"):
            raise ArgumentTypeError(f"the task's evaluate() must return something with scores(), not {type(found).__name__}")
        return replace(row, scores=found.scores())

    def _look_at_first_batch(self) -> None:
        """Whether models and data fit each other.

        Raises:
            ArgumentError: they do not.
        """
        with RandomStream(self.recipe.seed).active():
            item = next(iter(self.train.batches), None)
            if item is None:
                raise ArgumentError("train is empty: it has no batch")
            self.notes += self.lesson.begin(self.task.split(item, self.student)[0][:2])

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        assert self.checkpoint is not None
        self._look_at_losses()
        if self.accelerator.is_main_process:
            optimizer, plain = pack_optimizer(self.optimizer)
            groups = {"student": dict(self.student.state_dict()), "optimizer": optimizer, "best": self.best}
            if self.ema is not None:
                groups["ema"] = dict(self.ema.module.state_dict())
            facts = {
                "recipe": asdict(self.recipe), "progress": asdict(self.progress), "optimizer": plain,
                "scaler": self.scaler.state_dict(), "batches": len(self.train),
                "teacher": checksum(self.teacher.state_dict()), "val": self.val is not None,
            }  # fmt: skip
            write_checkpoint(self.checkpoint, groups, facts)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        assert self.checkpoint is not None
        path = self.checkpoint
        groups, facts = read_checkpoint(path)
        theirs, own = facts["recipe"], asdict(self.recipe)
        other = [name for name in own if own[name] != theirs.get(name)]
        if other:
            raise ArgumentError(
                f"checkpoint {str(path)!r} is of another recipe: {other[0]} was {theirs.get(other[0])!r}, not {own[other[0]]!r}"
            )
        if facts["batches"] != len(self.train):
            raise ArgumentError(
                f"checkpoint {str(path)!r} is of other data: it had {facts['batches']} batches, not {len(self.train)}"
            )
        if facts["teacher"] != checksum(self.teacher.state_dict()):
            raise ArgumentError(f"checkpoint {str(path)!r} is of a run towards another teacher: its weights differ")
        if facts["val"] != (self.val is not None):
            told = "had val, to choose the best weights by: give it again" if facts["val"] else "had no val: leave it out"
            raise ArgumentError(f"checkpoint {str(path)!r} is of a run that {told}")
        load_state(self.student, groups["student"], path)
        if self.ema is not None:
            load_state(self.ema.module, groups["ema"], path)
        unpack_optimizer(self.optimizer, groups.get("optimizer", {}), facts["optimizer"])
        self.scaler.load_state_dict(facts["scaler"])
        self.best = groups.get("best", {})
        self.progress = Progress.from_dict(facts["progress"])
        self.good = _copied(self.student.state_dict())


def cpu_computes_in(precision: str) -> bool:
    """Whether the processor has arithmetic of this precision; it is emulated otherwise, 17 times slower on one with AVX2."""
    if precision == "fp32":
        return True
    mkldnn = torch.ops.mkldnn
    known: bool = mkldnn._is_mkldnn_bf16_supported() if precision == "bf16" else mkldnn._is_mkldnn_fp16_supported()
    return known


def _copied(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

"""One optimizer step of distillation, and all that it changes: weights, their running average, optimizer, loss scale."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..common.random_state import seed_all, seed_of
from ..errors import ArgumentError
from ..inputs.augment import mirrored_and_shifted
from ..tasks.scores import Scores
from ..tasks.task import Inputs, Targets, Task
from .objective import Objective
from .precision import autocast, warn_if_emulated
from .synced_norms import SyncedNorms
from .training_recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from timm.scheduler.scheduler import Scheduler

TICKS = 1_000_000  # the schedule's unit of time: the whole budget


class Stepper:
    """Takes the optimizer steps of a run.

    Args:
        student: the network to train, in training mode and on the accelerator's device.
        teacher: in evaluation mode and on the same device.
        recipe: optimizer, schedule, losses and precision.
        task: how student and teacher are compared.
        accelerator: of this process.
        augments: whether to mirror and shift the images here.

    Raises:
        ArgumentError: the student has nothing to train.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        recipe: Recipe,
        task: Task,
        accelerator: "Accelerator",
        augments: bool,
    ):
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        if not any(p.requires_grad for p in student.parameters()):
            raise ArgumentError("student has no parameter that requires a gradient")
        self.student, self.recipe, self.task = student, recipe, task
        self.accelerator, self.augments = accelerator, augments
        self.ema = ModelEmaV3(student, recipe.ema, use_warmup=True) if recipe.ema else None
        self.optimizer = create_optimizer_v2(student, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.scheduler = _make_scheduler(self.optimizer, recipe)
        warn_if_emulated(recipe.precision, accelerator.device)
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=recipe.precision == "fp16")
        self.objective = Objective(student, teacher, task, recipe)
        self.parallel_objective: nn.Module = self.objective

    @property
    def judged(self) -> nn.Module:
        """The network to validate and to return: the running average where there is one, else the student."""
        return self.student if self.ema is None else self.ema.module

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        lr: float = self.optimizer.param_groups[0]["lr"]
        return lr

    def share_gradients(self) -> None:
        """Average the gradients over all processes from now on."""
        self.parallel_objective = self.accelerator.prepare_model(self.objective)

    def step(self, batches: list[object], number: int, part: float) -> tuple[list[dict[str, Tensor]], int]:
        """Take one optimizer step.

        Args:
            batches: as the loader gives them; their gradients are averaged.
            number: steps before this one; random choices follow from it and the seed.
            part: the part of the budget that is spent, from 0 to 1; the learning rate follows from it.

        Returns:
            The losses of each batch by name, detached, and the number of images in this process.
        """
        seed_all(seed_of(self.recipe.seed, 2, number, self.accelerator.process_index))
        self.scheduler.step(min(round(part * TICKS), TICKS - 1))
        losses: list[dict[str, Tensor]] = []
        images = 0
        for batch in batches:
            inputs, targets = self._inputs(batch)
            with self._processes_together(is_last=len(losses) == len(batches) - 1):
                with autocast(self.recipe.precision, self.accelerator.device):
                    batch_losses = self.parallel_objective(inputs, targets)
                self.scaler.scale(batch_losses["loss"] / len(batches)).backward()
            losses.append({name: value.detach() for name, value in batch_losses.items()})
            images += len(inputs)
        self._update(number + 1)
        return losses, images

    def _inputs(self, batch: object) -> tuple[Inputs, Targets]:
        """Images and targets of a batch, placed, augmented and mixed; targets are None where the recipe does not weigh them."""
        recipe = self.recipe
        images, targets = self.task.split(batch, self.student)
        if isinstance(images, Tensor) and images.dim() == 4 and recipe.channels_last:
            images = images.to(memory_format=torch.channels_last)
        targets = self.task.check(targets) if recipe.labels else None
        if self.augments and isinstance(images, Tensor):
            images = mirrored_and_shifted(images)
        if recipe.mixup or recipe.cutmix:
            images, targets = _mixed(images, targets, recipe, self.task)
        return images, targets

    @contextmanager
    def _processes_together(self, is_last: bool) -> Iterator[None]:
        """Batch norms see the batches of all processes; only the last batch of a step waits for their gradients."""
        with ExitStack() as stack:
            if not is_last:
                stack.enter_context(self.accelerator.no_sync(self.parallel_objective))
            if self.accelerator.num_processes > 1:
                stack.enter_context(SyncedNorms())
            yield

    def _update(self, steps: int) -> None:
        """Change the weights by their gradients, and the running average by the weights."""
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.student, steps)


def _make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe) -> "Scheduler":
    """timm's scheduler of the recipe's schedule, which counts time in ticks."""
    from timm.scheduler import create_scheduler_v2

    scheduler, _ = create_scheduler_v2(
        optimizer,
        "step" if recipe.schedule == "constant" else recipe.schedule,
        num_epochs=TICKS,
        decay_epochs=2 * TICKS,
        warmup_epochs=round(recipe.warmup * TICKS),
        warmup_lr=0.0,
    )
    return scheduler


def _mixed(images: Tensor, labels: Tensor | None, recipe: Recipe, task: Task) -> tuple[Tensor, Tensor | None]:
    """Images mixed in pairs by timm's mixup and cutmix, and probabilities (N, classes) in place of labels; the last image of
    an odd batch is left out.

    Raises:
        ArgumentError: the task has no classes to mix.
    """
    from timm.data import Mixup

    if not isinstance(task, Scores) or task.dims > 2:
        raise ArgumentError("mixup and cutmix mix classes: this task has none")
    if len(images) == 1:
        return images, labels
    even = len(images) // 2 * 2
    images = images[:even]
    mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=0.0, num_classes=task.classes)
    if labels is None:
        mixed_images, _ = mixup(images, torch.zeros(even, dtype=torch.long, device=images.device))
        return mixed_images, None
    mixed_images, probabilities = mixup(images, labels[:even])
    return mixed_images, probabilities

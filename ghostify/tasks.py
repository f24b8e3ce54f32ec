"""What training and evaluation have to know of a kind of network."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .data import Source, split_batch
from .errors import ArgumentError, ArgumentTypeError
from .evaluation import evaluate_source
from .losses import IGNORED, label_loss, logit_distillation, main_output, relation_distillation
from .norms import run_checked
from .training_recipe import Recipe

Outputs = Callable[[Any], Sequence[Tensor]]


class Judgement(Protocol):
    """What an evaluation returns."""

    def scores(self) -> dict[str, float]:
        """Shares from 0 to 1 by name; the first is what the best weights are chosen by."""


class Task:
    """How networks of one kind are compared with their teachers and judged. :func:`ghostify.distill` and
    :func:`ghostify.evaluate` take one; a subclass with :meth:`losses` and :meth:`evaluate` brings a kind of its own to them.
    """

    def split(self, item: Any, model: nn.Module, name: str = "train") -> tuple[Any, Any]:
        """Images, checked and on the model's device, and what belongs to them, from what a loader gives for a batch.

        Args:
            item: a batch; None for what belongs to the images, where there is nothing.
            name: of the argument that it came from, for errors.
        """
        return split_batch(item, model, name)

    def begin(self, student: nn.Module, teacher: nn.Module, images: Any) -> None:
        """Look at a few images, both networks in evaluation mode, before training.

        Raises:
            ArgumentError: networks and images do not fit each other.
        """
        for model in (student, teacher):
            run_checked(model, (images,), {})

    def check(self, targets: Any) -> Any:
        """What belongs to the images, ready for :meth:`losses`, where the recipe weighs labels.

        Raises:
            ArgumentError: it can't be learned from.
        """
        return targets

    def run(self, model: nn.Module, images: Any) -> None:
        """The part of the forward pass in which maps of student and teacher are compared. It runs once in each of
        :meth:`losses`."""
        model(images)

    def losses(
        self, student: nn.Module, teacher: nn.Module, images: Any, targets: Any, recipe: Recipe
    ) -> dict[str, Tensor]:  # fmt: skip
        """Scalars by the name of their weight in the recipe: ``logits``, ``relation``, ``labels``.

        Args:
            student: in training mode.
            teacher: in evaluation mode; no gradient is wanted of it.
            targets: None where the recipe does not weigh labels.
        """
        raise NotImplementedError

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> Judgement:
        """Judge a network on all of the batches, against labels, its teacher, or both."""
        raise NotImplementedError


class Scores(Task):
    """Networks that give class scores, for images or for their positions: classifiers, segmentation.

    Args:
        outputs: from what a network returns to scores (N, classes, ...), the first of which it is judged by.
    """

    def __init__(self, outputs: Outputs = main_output):
        self.outputs = outputs
        self.classes = 0

    def begin(self, student: nn.Module, teacher: nn.Module, images: Any) -> None:
        results = [run_checked(model, (images,), {}) for model in (student, teacher)]
        try:
            given, goals = (self.outputs(result) for result in results)
        except TypeError as error:
            raise ArgumentTypeError(str(error)) from error
        if [t.shape for t in given] != [t.shape for t in goals]:
            shapes = [", ".join(str(tuple(t.shape[1:])) for t in found) for found in (given, goals)]
            raise ArgumentError(f"student and teacher differ in their outputs: {shapes[0]} against {shapes[1]}")
        self.classes = given[0].shape[1]

    def check(self, targets: Any) -> Any:
        if targets is None:
            raise ArgumentError("the recipe weighs labels, but train has none")
        named = targets[targets != IGNORED] if targets.dim() > 1 else targets
        if targets.is_floating_point() or bool(((named >= self.classes) | (named < 0)).any()):
            raise ArgumentError(f"train has labels outside of 0 to {self.classes - 1}, the student's classes")
        return targets.long()

    def losses(
        self, student: nn.Module, teacher: nn.Module, images: Any, targets: Any, recipe: Recipe
    ) -> dict[str, Tensor]:  # fmt: skip
        with torch.no_grad():
            goals = self.outputs(teacher(images))
        given = self.outputs(student(images))
        found: dict[str, Tensor] = {}
        if recipe.logits:
            found["logits"] = _mean(logit_distillation(s, t, recipe.temperature) for s, t in zip(given, goals, strict=True))
        if recipe.relation:
            found["relation"] = _mean(relation_distillation(s, t) for s, t in zip(given, goals, strict=True))
        if targets is not None:
            found["labels"] = label_loss(given[0], targets)
        return found

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> Judgement:
        return evaluate_source(model, teacher, source, self.outputs, progress)


def _mean(values: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def task_for(model: nn.Module, outputs: Outputs, task: Task | None) -> Task:
    """The one that was given, or the one for networks of the model's kind.

    Raises:
        ArgumentError, ArgumentTypeError: both ``outputs`` and ``task``; something else than a task.
    """
    if task is None:
        return Scores(outputs)
    if not isinstance(task, Task):
        raise ArgumentTypeError(f"task must be a ghostify.Task, not {type(task).__name__}")
    if outputs is not main_output:
        raise ArgumentError("outputs= goes without task=, which says how outputs are compared")
    return task

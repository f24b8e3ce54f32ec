"""Networks that give class scores: classifiers and segmentation networks."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..common.calls import run_checked
from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.batches import Images
from ..inputs.sources import Source
from ..losses import IGNORED, label_loss, logit_distillation, main_output, relation_distillation
from .accuracy import Evaluation, evaluate_source
from .task import LossWeights, Outputs, Task


class Scores(Task):
    """Networks that give class scores, for images or for their positions: classifiers, segmentation.

    Args:
        outputs: from what a network returns to scores (N, classes, ...), the first of which it is judged by.

    Attributes:
        classes: number of classes in the scores that labels belong to; 0 before :meth:`begin`.
        dims: number of dimensions of these scores, 2 of a classifier; 0 before :meth:`begin`.
    """

    def __init__(self, outputs: Outputs = main_output):
        self.outputs = outputs
        self.classes, self.dims = 0, 0

    def begin(self, student: nn.Module, teacher: nn.Module, images: Images) -> None:
        """Look at a few images before training.

        Raises:
            ArgumentError: networks and images do not fit each other, or scores have different shapes.
            ArgumentTypeError: a network returns something that needs ``outputs``.
        """
        results = [run_checked(model, (images,), {}) for model in (student, teacher)]
        try:
            student_scores, teacher_scores = (self.outputs(result) for result in results)
        except TypeError as error:
            raise ArgumentTypeError(str(error)) from error
        if [t.shape for t in student_scores] != [t.shape for t in teacher_scores]:
            shapes = [", ".join(str(tuple(t.shape[1:])) for t in scores) for scores in (student_scores, teacher_scores)]
            raise ArgumentError(f"student and teacher differ in their outputs: {shapes[0]} against {shapes[1]}")
        self.classes, self.dims = student_scores[0].shape[1], student_scores[0].dim()

    def check(self, targets: Tensor | None) -> Tensor:
        """The labels (N, ...) as whole numbers.

        Raises:
            ArgumentError: there are none, or they do not fit the student's scores.
        """
        if targets is None:
            raise ArgumentError("the recipe weighs labels, but train has none")
        if targets.is_floating_point():
            raise ArgumentError(f"train has labels of type {targets.dtype}: give whole numbers, the classes")
        if targets.dim() != self.dims - 1:
            shape = "(N,)" if self.dims == 2 else f"(N, {', '.join('HWD'[: self.dims - 2])})"
            raise ArgumentError(f"train has labels of shape {tuple(targets.shape)}, the student's scores take {shape}")
        labels = targets[targets != IGNORED] if self.dims > 2 else targets
        wrong = labels[(labels >= self.classes) | (labels < 0)]
        if len(wrong):
            left_out = f"; {IGNORED} is left out" if self.dims > 2 else ""
            raise ArgumentError(
                f"train has labels outside of 0 to {self.classes - 1}, the student's classes: {int(wrong[0])}{left_out}"
            )
        return targets.long()

    def losses(
        self,
        student: nn.Module,
        teacher: nn.Module,
        images: Images,
        targets: Tensor | None,
        recipe: LossWeights,
    ) -> dict[str, Tensor]:
        """``logits`` and ``relation``, where the recipe weighs them, over all outputs; ``labels`` of the first output, where
        there are targets.

        Raises:
            ArgumentError: labels have other positions than the scores.
        """
        with torch.no_grad():
            teacher_scores = self.outputs(teacher(images))
        student_scores = self.outputs(student(images))
        pairs = list(zip(student_scores, teacher_scores, strict=True))
        losses: dict[str, Tensor] = {}
        if recipe.logits:
            losses["logits"] = _mean(logit_distillation(s, t, recipe.temperature) for s, t in pairs)
        if recipe.relation:
            losses["relation"] = _mean(relation_distillation(s, t) for s, t in pairs)
        if targets is not None:
            _check_positions(targets, student_scores[0])
            losses["labels"] = label_loss(student_scores[0], targets)
        return losses

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> Evaluation:
        """How often a network is right, how often it agrees with its teacher, or both.

        Raises:
            ArgumentError: no image, nothing to compare with, or images or labels that do not fit.
        """
        return evaluate_source(model, teacher, source, self.outputs, progress)


def _check_positions(labels: Tensor, scores: Tensor) -> None:
    """Refuse labels (N, ...) of other positions than those of scores (N, classes, ...)."""
    positions = scores.shape[2:]
    if labels.dim() == 1 + len(positions) and labels.shape[1:] != positions:
        sizes = [" x ".join(map(str, size)) for size in (labels.shape[1:], positions)]
        raise ArgumentError(f"train has labels of {sizes[0]} positions, the student scores of {sizes[1]}")


def _mean(values: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()

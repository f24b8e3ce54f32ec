"""Networks that give class scores: classifiers and segmentation networks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..common.calls import run_checked
from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.sources import Source
from ..losses import IGNORED, label_loss, logit_distillation, main_output, relation_distillation
from .accuracy import evaluate_source
from .task import Judgement, LossWeights, Outputs, Task


class Scores(Task):
    """Networks that give class scores, for images or for their positions: classifiers, segmentation.

    Args:
        outputs: from what a network returns to scores (N, classes, ...), the first of which it is judged by.
    """

    def __init__(self, outputs: Outputs = main_output):
        self.outputs = outputs
        self.classes, self.dims = 0, 0  # of the scores that labels belong to

    def begin(self, student: nn.Module, teacher: nn.Module, images: Any) -> None:
        results = [run_checked(model, (images,), {}) for model in (student, teacher)]
        try:
            given, goals = (self.outputs(result) for result in results)
        except TypeError as error:
            raise ArgumentTypeError(str(error)) from error
        if [t.shape for t in given] != [t.shape for t in goals]:
            shapes = [", ".join(str(tuple(t.shape[1:])) for t in found) for found in (given, goals)]
            raise ArgumentError(f"student and teacher differ in their outputs: {shapes[0]} against {shapes[1]}")
        self.classes, self.dims = given[0].shape[1], given[0].dim()

    def check(self, targets: Any) -> Any:
        if targets is None:
            raise ArgumentError("the recipe weighs labels, but train has none")
        if targets.is_floating_point():
            raise ArgumentError(f"train has labels of type {targets.dtype}: give whole numbers, the classes")
        if targets.dim() != self.dims - 1:
            wanted = "(N,)" if self.dims == 2 else f"(N, {', '.join('HWD'[: self.dims - 2])})"
            raise ArgumentError(f"train has labels of shape {tuple(targets.shape)}, the student's scores take {wanted}")
        named = targets[targets != IGNORED] if self.dims > 2 else targets
        if bool((wrong := (named >= self.classes) | (named < 0)).any()):
            left_out = f"; {IGNORED} is left out" if self.dims > 2 else ""
            raise ArgumentError(
                f"train has labels outside of 0 to {self.classes - 1}, the student's classes: {int(named[wrong][0])}{left_out}"
            )
        return targets.long()

    def losses(
        self, student: nn.Module, teacher: nn.Module, images: Any, targets: Any, recipe: LossWeights
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
            places = given[0].shape[2:]
            if targets.dim() == 1 + len(places) and targets.shape[1:] != places:
                sizes = [" x ".join(map(str, size)) for size in (targets.shape[1:], places)]
                raise ArgumentError(f"train has labels of {sizes[0]} positions, the student scores of {sizes[1]}")
            found["labels"] = label_loss(given[0], targets)
        return found

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> Judgement:
        return evaluate_source(model, teacher, source, self.outputs, progress)


def _mean(values: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()

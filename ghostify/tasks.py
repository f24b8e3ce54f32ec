"""What training and evaluation have to know of a kind of network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .data import Source, shared_out, split_batch
from .errors import ArgumentError, ArgumentTypeError
from .evaluation import evaluate_source
from .losses import IGNORED, feature_matching, label_loss, logit_distillation, main_output, relation_distillation
from .norms import evaluation, run_checked
from .processes import summed
from .progress import over_batches
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
        """Images, checked and on the model's device, and what belongs to them, None where there is nothing.

        Args:
            item: a batch as the loader gives it.
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
        raise ArgumentError(f"task {type(self).__name__} can't be trained on: it has no losses()")

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> Judgement:
        """Judge a network on all of the batches, against labels, its teacher, or both."""
        raise ArgumentError(f"task {type(self).__name__} can't judge a network: it has no evaluate()")


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


@dataclass(frozen=True)
class MapsEvaluation:
    """How near the maps of a backbone are to its teacher's.

    Attributes:
        images: how many.
        explained: one less the squared error relative to the variance of the teacher's maps about their channel means; the
            average over places and batches.
    """

    images: int
    explained: float

    def scores(self) -> dict[str, float]:
        return {"explained": self.explained}

    def __str__(self) -> str:
        return f"{self.images} images, {self.explained:.2%} of the teacher's maps explained"


class Maps(Task):
    """Backbones that give maps (N, channels, ...) from several places and no scores, as timm's ``features_only`` does.

    ``logits`` weighs the difference of these maps (:func:`ghostify.losses.feature_matching`); there are no labels.
    """

    def check(self, targets: Any) -> Any:
        raise ArgumentError("the recipe weighs labels, and a backbone without a head has no classes: set labels to 0")

    def losses(
        self, student: nn.Module, teacher: nn.Module, images: Any, targets: Any, recipe: Recipe
    ) -> dict[str, Tensor]:  # fmt: skip
        if recipe.relation:
            raise ArgumentError("relation compares class scores, and a backbone without a head has none: set it to 0")
        with torch.no_grad():
            goals = tree_leaves(teacher(images))
        given = tree_leaves(student(images))
        return {"logits": feature_matching(given, goals, together=True)} if recipe.logits else {}

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> MapsEvaluation:
        if teacher is None:
            raise ArgumentError("a backbone without a head is judged beside its teacher: give teacher=")
        found: list[tuple[int, float]] = []
        with torch.no_grad(), evaluation(model), evaluation(teacher):
            for item in over_batches(shared_out(source, 0, training=False), len(source), progress):
                images, _ = self.split(item, model, source.name)
                given, goals = (tree_leaves(run_checked(network, (images,), {})) for network in (model, teacher))
                found.append((len(images), float(feature_matching(given, goals))))
        sums = torch.tensor([[n, n * error] for n, error in found], dtype=torch.float64).reshape(-1, 2).sum(0)
        total, off = summed(sums).tolist()
        if not total:
            raise ArgumentError(f"{source.name} holds no image")
        return MapsEvaluation(round(total), 1 - off / total)


def task_for(model: nn.Module, outputs: Outputs, task: Task | None) -> Task:
    """The one that was given, or the one for networks of the model's kind.

    Raises:
        ArgumentError, ArgumentTypeError: both ``outputs`` and ``task``; something else than a task.
    """
    if task is None:
        return Scores(outputs) if outputs is not main_output else _task_of(model)
    if not isinstance(task, Task):
        raise ArgumentTypeError(f"task must be a ghostify.Task, not {type(task).__name__}")
    if outputs is not main_output:
        raise ArgumentError("outputs= goes without task=, which says how outputs are compared")
    return task


def _task_of(model: nn.Module) -> Task:
    from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet

    from .detection import Detection
    from .detection_targets import is_detector

    if is_detector(model):
        return Detection()
    if isinstance(model, (FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet)):
        return Maps()
    return Scores()

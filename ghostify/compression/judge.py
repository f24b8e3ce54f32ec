"""How much worse a student is than its original, and how much worse it may be for all that the images say."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.buffers import kept_buffers
from ..common.calls import evaluation_mode, run_checked
from ..errors import ArgumentError
from ..inputs.sources import Source
from ..tasks.accuracy import check_labels
from ..tasks.scores import Scores
from ..tasks.task import Task
from .images import digests
from .intervals import disagreement_at_most, drop_at_most, least_images, mean_drop_at_most

GROUPS = 12  # of batches, at most: measures that are no mean over images are compared group by group

WORTHLESS = 0.01  # a measure by which nothing could get worse

FEWEST = 6  # groups that can tell a spread


@dataclass(frozen=True)
class Judgement:
    """A student beside its original.

    Attributes:
        original, student: their measures, shares from 0 to 1.
        drop: how much less the student's is.
        most: the upper end of the drop's confidence interval.
    """

    original: float
    student: float
    drop: float
    most: float


class Judge(ABC):
    """Compares students with their original on images that neither chose nor calibrated.

    Attributes:
        measure: its name: ``"top1"``, ``"agreement"``, ``"mean_iou"``, ``"map"``, or another of the task's.
        images: how many images judge.
        baseline: the original's measure.
        seen: digests of the images.
    """

    measure: str
    images: int
    baseline: float
    seen: set[bytes]

    @abstractmethod
    def judge(self, student: nn.Module, risk: float) -> Judgement:
        """Compare a student with the original.

        Args:
            student: in any mode; it is not changed.
            risk: the chance that its drop is larger than ``most``.
        """

    @abstractmethod
    def needed(self, max_drop: float, risk: float) -> int:
        """How many images can tell whether a student keeps within a limit: fewer can't, even where it loses nothing on them.

        Args:
            max_drop: the limit.
            risk: the chance that a drop is larger than it seems.
        """


def make_judge(original: nn.Module, items: Iterable[Any], task: Task) -> Judge:
    """The judge for networks of a kind.

    Args:
        original: in evaluation mode.
        items: batches, with labels or without; :meth:`ghostify.Task.split` reads them.
        task: how networks of the kind are judged.

    Raises:
        ArgumentError, ArgumentTypeError: images or labels that do not fit the original.
    """
    images, _ = task.split(next(iter(items)), original, "val")
    if isinstance(task, Scores) and isinstance(images, Tensor):
        with torch.no_grad(), kept_buffers(original):
            scores = task.outputs(run_checked(original, (images,), {}))[0]
        if scores.dim() == 2:
            return PairedJudge(original, items, task)
    return GroupJudge(original, items, task)


class PairedJudge(Judge):
    """Judges classifiers image by image: top-1 where there are labels, else agreement with the original.

    Args:
        original, items, task: as for :func:`make_judge`.
    """

    def __init__(self, original: nn.Module, items: Iterable[Any], task: Scores):
        self.items, self.task, self.seen = items, task, set()
        labels = [task.split(item, original, "val")[1] for item in items]
        answers, classes = self._answers(original, labels)
        self.labels = None if labels[0] is None else torch.cat([label.cpu() for label in labels]).flatten()
        self.answers, self.images = answers, len(answers)
        self.measure = "agreement" if self.labels is None else "top1"
        self.baseline = 1.0
        if self.labels is not None:
            self.baseline = float((answers == self.labels).double().mean())
            chance = 1 / classes
            if self.baseline <= chance + 2 * math.sqrt(chance * (1 - chance) / self.images):
                raise ArgumentError(
                    f"val has labels that the original gets right no more often than by chance ({self.baseline:.1%} of "
                    f"{self.images} images): are they in the order of the model's classes?"
                )

    def judge(self, student: nn.Module, risk: float) -> Judgement:
        answers, _ = self._answers(student, None)
        if self.labels is None:
            different = int((answers != self.answers).sum())
            most = disagreement_at_most(different, self.images, risk)
            return Judgement(1.0, 1 - different / self.images, different / self.images, most)
        right, was_right = answers == self.labels, self.answers == self.labels
        lost, won = int((was_right & ~right).sum()), int((right & ~was_right).sum())
        most = drop_at_most(lost, won, self.images, risk)
        return Judgement(self.baseline, float(right.double().mean()), (lost - won) / self.images, most)

    def needed(self, max_drop: float, risk: float) -> int:
        return least_images(max_drop, risk, paired=self.labels is not None)

    @torch.no_grad()
    def _answers(self, model: nn.Module, labels: Sequence[Tensor | None] | None) -> tuple[Tensor, int]:
        """(images,) the first class of each image, and how many classes there are; labels are checked."""
        answers: list[Tensor] = []
        classes = 0
        with evaluation_mode(model), kept_buffers(model):
            for position, item in enumerate(self.items):
                images, _ = self.task.split(item, model, "val")
                scores = self.task.outputs(run_checked(model, (images,), {}))[0].float()
                classes = scores.shape[1]
                answers.append(scores.argmax(1).cpu())
                if labels is not None:
                    self.seen.update(digests(images))
                    label = labels[position]
                    if (label is None) != (labels[0] is None):
                        raise ArgumentError("val has batches with labels and batches without: give one kind")
                    if label is not None:
                        check_labels(label.flatten(), scores, "val", dense=False)
        return torch.cat(answers), classes


class GroupJudge(Judge):
    """Judges any networks by their task: the measure over all images, and its spread over groups of batches.

    Args:
        original, items, task: as for :func:`make_judge`.
    """

    def __init__(self, original: nn.Module, items: Iterable[Any], task: Task):
        self.original, self.items, self.task = original, list(items), task
        if len(self.items) < FEWEST:
            raise ArgumentError(
                f"{len(self.items)} batches of images judge, too few to tell how far a drop is known: give {FEWEST} or more"
            )
        split = [task.split(item, original, "val") for item in self.items]
        self.labelled = split[0][1] is not None
        self.images = sum(len(images) for images, _ in split)
        self.seen = {digest for images, _ in split for digest in digests(images)}
        self.measure, self.baseline = self._score(original, self.items)
        if self.labelled and self.baseline < WORTHLESS:
            raise ArgumentError(
                f"val has labels by which the original's {self.measure} is {self.baseline:.2%}: are they those of the model?"
            )
        self.group_baselines = [self._score(original, group)[1] for group in self._groups()]

    def judge(self, student: nn.Module, risk: float) -> Judgement:
        _, score = self._score(student, self.items)
        groups = [self._score(student, group)[1] for group in self._groups()]
        drops = [before - after for before, after in zip(self.group_baselines, groups, strict=True)]
        drop = self.baseline - score
        return Judgement(self.baseline, score, drop, min(1.0, drop + mean_drop_at_most(drops, risk)))

    def needed(self, max_drop: float, risk: float) -> int:
        return 1  # it depends on how much groups differ

    def _groups(self) -> list[list[Any]]:
        count = min(GROUPS, len(self.items))
        return [self.items[start::count] for start in range(count)]

    def _score(self, model: nn.Module, items: Sequence[Any]) -> tuple[str, float]:
        """The task's first measure, by its name."""
        teacher = None if self.labelled else self.original
        with kept_buffers(model), kept_buffers(self.original):
            scores = self.task.evaluate(model, teacher, Source(list(items), "val")).scores()
        if not scores:
            raise ArgumentError("val has a group of batches in which there is nothing to find: give more images, or others")
        return next(iter(scores.items()))
